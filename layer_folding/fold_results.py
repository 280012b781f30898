"""fold.json: what folding a run did, and the one place that reads and writes it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from . import files, records
from .fit_choices import parse_choice
from .recipes import FitRecord, Network

SCHEMA = 2


@dataclass(frozen=True)
class MergedLayers:
    """Layers that became the layer ``name``; ``macs`` and ``parameters`` are those before and after."""

    name: str
    layers: tuple[str, ...]
    activations: tuple[str, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    macs: tuple[int, int]
    parameters: tuple[int, int]
    error: float
    groups: int = 1

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError(f"{self.name} is merged from no layers")


@dataclass(frozen=True)
class SkippedLayer:
    """A layer that stays, and why."""

    layer: str
    reason: str
    code: str = ""  # of which kind the reason is


@dataclass(frozen=True)
class NetworkCost:
    """Weighted layers on the longest path, parameters, and multiply-accumulates for one image."""

    depth: int
    parameters: int
    macs: int


@dataclass(frozen=True)
class Costs:
    """The network before and after."""

    original: NetworkCost
    folded: NetworkCost


@dataclass(frozen=True)
class Agreement:
    """Of ``images``, how many the networks before and after folding put in the same class."""

    images: int
    same: int
    ties: int = 0  # of the others, those that rounding explains


@dataclass(frozen=True)
class FoldRecord:
    """What folding a run did.

    ``fitted`` are the layers that were fitted before. ``accuracy`` is a fraction for each of `stages.STEPS` that was
    measured. ``agreement`` is None where the network gives no class for an image. ``kept`` has the activations that
    were put back although their gates opened, with the reason.
    """

    model: Network
    folded: tuple[MergedLayers, ...]
    skipped: tuple[SkippedLayer, ...]
    max_error: float
    cost: Costs
    accuracy: dict[str, float]
    agreement: Agreement | None = None
    kept: dict[str, str] = field(default_factory=dict)
    fitted: tuple[FitRecord, ...] = ()

    @property
    def of_original(self) -> tuple[MergedLayers, ...]:
        """``folded`` in layers and activations of the original network: those that a fitted layer stands for."""
        fits = {fit.name: fit for fit in self.fitted}
        return tuple(_of_original(merge, fits) for merge in self.folded)


def _of_original(merge: MergedLayers, fits: Mapping[str, FitRecord]) -> MergedLayers:
    stands_for = [fits[name] for name in merge.layers if name in fits]
    activations = [name for fit in stands_for for name in parse_choice(fit.choice).activations]
    layers = [layer for name in merge.layers for layer in (fits[name].layers if name in fits else (name,))]
    return replace(merge, layers=tuple(layers), activations=(*merge.activations, *activations))


def save(path: str | Path, record: FoldRecord) -> None:
    """Write ``record`` to ``path`` atomically."""
    files.write_json(path, records.encode(record, SCHEMA))


def load(path: str | Path, remedy: str = "fold again") -> FoldRecord:
    """Read a fold.json. Raises InputError if it is missing, no JSON, or not what folding writes."""
    return records.read(path, FoldRecord, SCHEMA, remedy)
