"""metrics.csv of a run folder: what each epoch gave, and the one place that reads and writes it."""

import csv
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .errors import InputError
from .files import write_text

COLUMNS = (
    "stage",
    "epoch",
    "loss",
    "task",
    "accuracy",
    "penalty",
    "depth",
    "seconds",
)  # a column for each gate follows
_OPTIONAL = ("loss", "task", "penalty", "seconds")  # in files of early versions, or of other programs


@dataclass(frozen=True)
class Epoch:
    """What an epoch of a stage gave. ``gates`` has how far each gate is open, 0 to 1; None: not recorded."""

    stage: str
    epoch: int
    accuracy: float  # a fraction
    depth: int  # weighted layers, if the network were folded now
    loss: float | None = None
    task: float | None = None  # the loss without the penalty
    penalty: float | None = None
    seconds: float | None = None
    gates: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Metrics:
    """The epochs of a metrics.csv; ``cut_off``: its last row lacks its end, and is left out."""

    epochs: tuple[Epoch, ...] = ()
    cut_off: bool = False


def write(path: Path, epochs: Iterable[Epoch]) -> None:
    """Write ``epochs`` to ``path`` atomically."""
    rows = [_row(epoch) for epoch in epochs]
    text = io.StringIO()
    columns = list(dict.fromkeys([*COLUMNS, *(name for row in rows for name in row)]))
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read(path: Path) -> Metrics:
    """The epochs of the file ``path``; none where there is no file. Raises InputError for a damaged file."""
    if not path.exists():
        return Metrics()
    try:
        text = path.read_bytes().decode()
        whole = text[: text.rfind("\n") + 1]  # half a number is a number too
        rows = csv.DictReader(io.StringIO(whole or text, newline=""))
        missing = [name for name in COLUMNS if name not in (rows.fieldnames or ()) and name not in _OPTIONAL]
        if missing:
            raise ValueError(f"it lacks the columns {', '.join(missing)}")
        return Metrics(tuple(map(_epoch, rows)), cut_off=bool(whole) and whole != text)
    except (ValueError, OSError, csv.Error) as error:
        raise InputError(f"{path}: damaged: {error}; delete it, and the next epoch writes it again") from error


def _row(epoch: Epoch) -> dict[str, object]:
    known = {name: getattr(epoch, name) for name in COLUMNS}
    return {**{name: "" if value is None else value for name, value in known.items()}, **epoch.gates}


def _epoch(row: Mapping[str | None, str | list[str] | None]) -> Epoch:
    if None in row or None in row.values():
        raise ValueError("a row has not as many values as there are columns")
    texts = {str(name): str(value) for name, value in row.items()}
    return Epoch(
        stage=texts["stage"],
        epoch=int(texts["epoch"]),
        accuracy=_number(texts["accuracy"]),
        depth=int(texts["depth"]),
        **{name: _number(texts[name]) for name in _OPTIONAL if texts.get(name)},
        gates={name: _number(text) for name, text in texts.items() if name not in COLUMNS and text},
    )


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no number")
    return value
