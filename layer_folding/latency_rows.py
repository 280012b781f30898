"""latency.csv: what each merged layer takes on a device, in the columns of published tables.

The columns are those of the tables that Kim et al. publish for two-stage dynamic programming (ICML 2023, arXiv
2301.12187): row ``(st, end)`` is the time of one merged layer in place of the layers ``st + 1 .. end``. A published
table has nothing else. One that was measured here has a JSON file beside it (`layer_folding.latency_tables`).
"""

import csv
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .errors import InputError
from .files import write_text

_COLUMNS = ("st", "end", "time", "stdev")


@dataclass(frozen=True)
class Row:
    """``time`` and ``stdev`` in ms of one layer that replaces the layers ``st + 1 .. end``."""

    st: int
    end: int
    time: float
    stdev: float


def write_rows(path: str | Path, rows: Iterable[Row]) -> None:
    """Write ``rows`` atomically. What `read_rows` reads is equal to the last digit."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows([row.st, row.end, repr(row.time), repr(row.stdev)] for row in rows)
    write_text(path, text.getvalue())


def read_rows(path: str | Path) -> list[Row]:
    """The rows of a latency table in the order of the file.

    Raises:
        InputError: the file is missing or has other columns, a time is negative or not finite, a row is there twice or
            is known to be missing.
    """
    rows: list[Row] = []
    seen = set()
    for line, fields in _records(path):
        row = _row(fields, f"{path}, line {line}")
        if (row.st, row.end) in seen:
            raise InputError(
                f"{path}, line {line}: row ({row.st},{row.end}) is there twice; delete the one that is wrong"
            )
        if "id" in fields and fields["id"] != str(len(rows)):
            raise InputError(
                f"{path}, line {line}: id {fields['id']} follows {len(rows)} rows; a row is missing before it"
            )
        seen.add((row.st, row.end))
        rows.append(row)
    if not rows:
        raise InputError(f"{path}: has no rows; measure again, with `make table`")
    return rows


def read_chain(path: str | Path) -> list[Row]:
    """The rows of a table that has every layer of a chain on its own too; else as `read_rows`."""
    rows = read_rows(path)
    seen = {(row.st, row.end) for row in rows}
    for st in range(max(row.end for row in rows)):
        if (st, st + 1) not in seen:
            raise InputError(f"{path}: row ({st},{st + 1}) is missing; measure it, with `make table`")
    return rows


def _records(path: str | Path) -> list[tuple[int, dict[str, str]]]:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, strict=True)
            missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise InputError(
                    f"{path}: has no column {', '.join(missing)}; a latency table has {','.join(_COLUMNS)}"
                )
            return [(reader.line_num, fields) for fields in reader]
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; measure it, with `make table`") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a CSV file ({error}); give a latency table, from `make table`") from error


def _row(fields: Mapping[str, str], where: str) -> Row:
    try:
        row = Row(int(fields["st"]), int(fields["end"]), float(fields["time"]), float(fields["stdev"]))
    except (ValueError, TypeError) as error:  # TypeError: a line that is too short has None there
        values = ",".join(str(fields[name]) for name in _COLUMNS)
        raise InputError(f"{where}: {','.join(_COLUMNS)} are {values}, not four numbers; measure again") from error
    if not 0 <= row.st < row.end:
        raise InputError(f"{where}: st {row.st} and end {row.end} are no segment; it needs 0 <= st < end")
    for name, value in (("time", row.time), ("stdev", row.stdev)):
        if not (math.isfinite(value) and value >= 0):
            raise InputError(f"{where}: {name} is {value}, not a number of ms, 0 or more; measure the row again")
    return row
