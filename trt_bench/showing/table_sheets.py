"""The sheets of tables that no stage reads again: of a sweep, of splits, of what int8 costs by layer."""

import csv
from pathlib import Path

from layer_folding.errors import InputError

from .sheets import Sheet


def sweep(path: Path) -> Sheet:
    """The sheet of a sweep.csv or a frontier.csv: a row for each lambda or speed-up."""
    return _table(path, "sweep", "points")


def splits(path: Path) -> Sheet:
    """The sheet of a table that `layer-folding plan --optimal` wrote: a row for each segment."""
    return _table(path, "table of splits", "segments")


def sensitivity(path: Path) -> Sheet:
    """The sheet of a table that `layer-folding sensitivity` wrote: a row for each layer."""
    return _table(path, "what int8 costs", "layers")


def _table(path: Path, kind: str, rows_are: str) -> Sheet:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file, strict=True)
        wrong = next((row for row in rows if len(row) != len(header)), None)
        if wrong is not None:
            raise ValueError(f"a row has {len(wrong)} values, and there are {len(header)} columns")
    except (ValueError, csv.Error) as error:
        raise InputError(f"{path}: damaged: {error}; make the file again with the command that wrote it") from error
    found = [tuple(row) for row in rows]
    return Sheet(
        str(path),
        kind,
        f"{len(rows)} {rows_are}",
        {rows_are: str(len(rows))},
        tuple(header),
        found,
        [dict(zip(header, row, strict=True)) for row in rows],
    )
