"""A run folder as the report sees it. Each of its files may be missing, but none damaged."""

import csv
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trt_bench import results
from trt_bench.errors import InputError

SCHEMA = 1  # of config.json and fold.json
COLUMNS = ("stage", "epoch", "loss", "task", "accuracy", "penalty", "depth", "seconds")  # of metrics.csv, before gates
STEPS = ("original", "prefold", "hardened", "hoisted", "finetuned", "folded")  # with an accuracy, in their order
_MARKS = ("config.json", "fold.json", "bench.json", "metrics.csv", "original.onnx")


@dataclass(frozen=True)
class Run:
    """What is in a run folder: the content of its files, None (of ``epochs``: empty) where one is not there."""

    folder: Path
    config: dict | None
    fold: dict | None
    bench: dict | None
    epochs: list[dict]  # rows of metrics.csv: stage, epoch, accuracy, depth, and gates: {name: alpha}

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.folder.resolve().name


def run(folder: Path) -> Run:
    """Read a run folder. Raises InputError if it is none, or for a file in it that cannot be read."""
    if not folder.is_dir() or not any((folder / name).exists() for name in _MARKS):
        raise InputError(f"{folder}: no run folder; give one that `make demo` or `make pretrain` has made, RUN=DIR")
    bench = folder / "bench.json"
    return Run(
        folder,
        _json(folder / "config.json", _config, "`make pretrain` in another run folder"),
        _json(folder / "fold.json", _fold, "`make fold`"),
        results.load(bench) if bench.exists() else None,
        _epochs(folder / "metrics.csv"),
    )


def _json(path: Path, check: Callable[[dict], None], remedy: str) -> dict | None:
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema is {content['schema']!r}")
        check(content)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{path}: damaged, or of another version: {what}; make it again, {remedy}") from error
    return content


def _config(config: dict) -> None:
    for stage in config["stages"].values():
        _require(all(isinstance(stage[key], dict) for key in ("settings", "versions")), "settings or versions")


def _fold(fold: dict) -> None:
    """Raise KeyError, TypeError or ValueError unless the report finds in ``fold`` what it shows."""
    for merge in fold["folded"]:
        _require(merge["layers"] and isinstance(merge["name"], str), "a merge without layers or name")
        _require(all(isinstance(name, str) for name in [*merge["layers"], *merge["activations"]]), "names of layers")
        numbers = [*merge["kernel"], *merge["stride"], *merge["macs"], *merge["parameters"], merge["error"]]
        _require(all(map(_number, numbers)), f"numbers of {merge['name']}")
        _require(len(merge["macs"]) == len(merge["parameters"]) == 2, f"costs of {merge['name']}")
    for entry in fold["skipped"]:
        _require(all(isinstance(entry[key], str) for key in ("layer", "reason")), "skipped layers")
    for network in ("original", "folded"):
        _require(all(_number(fold["cost"][network][key]) for key in ("depth", "parameters", "macs")), "cost")
    _require(all(_number(value) for value in fold["accuracy"].values()), "accuracy")
    _require(_number(fold["max_error"]), "max_error")


def _epochs(path: Path) -> list[dict]:
    if not path.exists():
        return []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            _require({"stage", "epoch", "accuracy", "depth"} <= set(rows.fieldnames or ()), "no such columns")
            return [_epoch(row) for row in rows]
    except (ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{path}: damaged: {what}; delete it, and the next epoch writes it again") from error


def _epoch(row: dict) -> dict:
    gates = {name: float(value) for name, value in row.items() if name not in COLUMNS and value}
    accuracy, depth = float(row["accuracy"]), int(row["depth"])
    _require(all(map(math.isfinite, [accuracy, *gates.values()])), "a number that is none")
    return {"stage": row["stage"], "epoch": int(row["epoch"]), "accuracy": accuracy, "depth": depth, "gates": gates}


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _require(condition: object, what: str) -> None:
    if not condition:
        raise ValueError(what)
