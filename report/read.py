"""A run folder as the report sees it. Its files may be missing, of another schema or cut off, but not damaged."""

import csv
import io
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from report import checks
from trt_bench.errors import InputError

SCHEMA = 1  # of config.json, fold.json and bench.json
COLUMNS = ("stage", "epoch", "loss", "task", "accuracy", "penalty", "depth", "seconds")  # of metrics.csv, before gates
STEPS = ("original", "prefold", "hardened", "hoisted", "finetuned", "folded")  # with an accuracy, in their order
_MARKS = ("config.json", "fold.json", "bench.json", "metrics.csv", "original.onnx")


@dataclass(frozen=True)
class Run:
    """What is in a run folder: the content of its files, None (of ``epochs``: empty) where one is not there.

    ``notes`` say of a file, by its name, what of it cannot be shown.
    """

    folder: Path
    config: dict | None
    fold: dict | None
    bench: dict | None
    epochs: list[dict]  # rows of metrics.csv: stage, epoch, accuracy, depth, and gates: {name: alpha}
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.folder.resolve().name


def run(folder: Path) -> Run:
    """Read a run folder. Raises InputError if it is none, or for a file in it that cannot be read."""
    if not folder.is_dir() or not any((folder / name).exists() for name in _MARKS):
        raise InputError(f"{folder}: no run folder; give one that `make demo` or `make pretrain` has made, RUN=DIR")
    notes: dict[str, str] = {}
    return Run(
        folder,
        _json(folder / "config.json", checks.config, "`make pretrain` in another run folder", notes),
        _json(folder / "fold.json", checks.fold, "`make fold`", notes),
        _json(folder / "bench.json", checks.bench, "`make trt-bench`", notes),
        _epochs(folder / "metrics.csv", notes),
        notes,
    )


def _json(path: Path, check: Callable[[dict], None], remedy: str, notes: dict[str, str]) -> dict | None:
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        schema = content["schema"]
        if isinstance(schema, int) and schema != SCHEMA:
            notes[path.name] = f"{path.name} is of schema {schema}, and this report reads schema {SCHEMA}"
            return None
        checks.require(schema == SCHEMA, f"schema {schema!r}")
        check(content)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{path}: damaged: {what}; make it again, {remedy}") from error
    return content


def _epochs(path: Path, notes: dict[str, str]) -> list[dict]:
    if not path.exists():
        return []
    try:
        text = path.read_bytes().decode()
        whole = text[: text.rfind("\n") + 1]
        if whole and whole != text:  # half a number is a number too
            notes[path.name] = f"{path.name} is cut off, and its last row is left out"
        rows = csv.DictReader(io.StringIO(whole or text, newline=""))
        checks.require({"stage", "epoch", "accuracy", "depth"} <= set(rows.fieldnames or ()), "columns")
        return [_epoch(row) for row in rows]
    except (ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{path}: damaged: {what}; delete it, and the next epoch writes it again") from error


def _epoch(row: dict) -> dict:
    gates = {name: float(value) for name, value in row.items() if name not in COLUMNS and value}
    accuracy, depth = float(row["accuracy"]), int(row["depth"])
    checks.require(all(map(math.isfinite, [accuracy, *gates.values()])), "a number that is none")
    return {"stage": row["stage"], "epoch": int(row["epoch"]), "accuracy": accuracy, "depth": depth, "gates": gates}
