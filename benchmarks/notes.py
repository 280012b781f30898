"""What docs/results keeps of a trained network: one note for each run folder."""

from dataclasses import dataclass
from pathlib import Path

from layer_folding import records
from layer_folding.bench_results import RuntimeName
from layer_folding.device_records import DeviceRecord
from layer_folding.files import write_json
from layer_folding.fold_results import Costs
from layer_folding.stats import Comparison

SCHEMA = 1


@dataclass(frozen=True)
class NotedMerge:
    """The layers that became one, and the activations that were removed for it."""

    layers: tuple[str, ...]
    without: tuple[str, ...]


@dataclass(frozen=True)
class NotedLatency:
    """Where a latency was measured, and the headline; None where one network was measured."""

    runtime: RuntimeName
    device: DeviceRecord
    comparison: Comparison | None


@dataclass(frozen=True)
class Note:
    """The ``model`` of a run, the ``commands`` that trained it, epochs by stage, and what came out."""

    model: str
    commands: tuple[str, ...]
    versions: dict[str, str | None]
    epochs: dict[str, int]
    accuracy: dict[str, float]
    cost: Costs
    merged: tuple[NotedMerge, ...]
    latency: NotedLatency | None

    @property
    def comparison(self) -> Comparison | None:
        """The measured speed-up, None where there is none."""
        return self.latency and self.latency.comparison


def write(path: Path, note: Note) -> None:
    """Write ``note`` to ``path``."""
    write_json(path, records.encode(note, SCHEMA))


def read(path: Path) -> Note:
    """The note at ``path``. Raises InputError for a damaged file."""
    return records.read(path, Note, SCHEMA, "note the run again")
