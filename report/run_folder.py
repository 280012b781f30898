"""A run folder as the report sees it. Its files may be missing, of another schema or cut off, but not damaged."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from layer_folding import (
    bench_results,
    epoch_records,
    fold_results,
    importance_tables,
    plans,
    records,
    run_config,
)
from layer_folding.bench_results import BenchResult
from layer_folding.epoch_records import Epoch
from layer_folding.errors import InputError
from layer_folding.fold_results import FoldRecord
from layer_folding.importance_tables import Importance
from layer_folding.plans import Plan
from layer_folding.run_config import Config
from layer_folding.stages import FINETUNE, PREFOLD

_MARKS = ("config.json", "fold.json", "bench.json", "metrics.csv", "original.onnx")
THRESHOLD = 0.9  # of a gate that counts as open, where the settings of the fine-tuning do not say
T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """What is in a run folder, None (of ``epochs``: empty) where a file is not there.

    ``threshold`` is that of a gate that counts as open. ``notes`` say what of a file, by its name, cannot be shown.
    """

    folder: Path
    config: Config | None
    fold: FoldRecord | None
    bench: BenchResult | None
    epochs: tuple[Epoch, ...]
    threshold: float = THRESHOLD
    plan: Plan | None = None
    importance: Importance | None = None
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_fitted(self) -> bool:
        """Whether the stage prefold fitted layers; then there are no gates."""
        prefold = self.config.stages.get(PREFOLD.command) if self.config else None
        return prefold is not None and run_config.is_fit(prefold)

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.folder.resolve().name


def run(folder: Path) -> Run:
    """Read a run folder. Raises InputError if it is none, or for a file in it that cannot be read."""
    if not folder.is_dir() or not any((folder / name).exists() for name in _MARKS):
        raise InputError(f"{folder}: no run folder; give one that `make demo` or `make pretrain` has made, RUN=DIR")
    notes: dict[str, str] = {}

    def read(name: str, load: Callable[[Path], T]) -> T | None:
        try:
            return load(folder / name) if (folder / name).exists() else None
        except records.OtherSchemaError as error:
            notes[name] = f"{name} {str(error).removeprefix(f'{folder / name}: ').partition(';')[0]}"
            return None

    metrics = epoch_records.read(folder / "metrics.csv")
    if metrics.cut_off:
        notes["metrics.csv"] = "metrics.csv is cut off, and its last row is left out"
    config = read(run_config.NAME, lambda path: run_config.read(path.parent))
    return Run(
        folder,
        config,
        read("fold.json", lambda path: fold_results.load(path, "make it again, `make fold`")),
        read("bench.json", lambda path: bench_results.load(path, "make it again, `make trt-bench`")),
        metrics.epochs,
        _threshold(folder, config),
        read("plan.json", plans.read_plan),
        read("importance.csv", importance_tables.read_importance),
        notes,
    )


def _threshold(folder: Path, config: Config | None) -> float:
    """How far a gate has to be open to count as open, by the settings of the fine-tuning."""
    finetune = config.stages.get(FINETUNE.command) if config else None
    threshold = finetune.settings.get("threshold", THRESHOLD) if finetune else THRESHOLD
    if not isinstance(threshold, (int, float)) or isinstance(threshold, bool):
        path = folder / run_config.NAME
        raise InputError(f"{path}: damaged: threshold; run it again, `make pretrain` in another run folder")
    return threshold
