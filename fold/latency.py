"""Latency tables: what each segment of a network takes on a device, in milliseconds.

The CSV has the columns of the tables that Kim et al. publish for two-stage dynamic programming (ICML 2023, arXiv
2301.12187): row ``(st, end)`` is the time of one merged layer in place of the layers ``st + 1 .. end``. Beside it,
NAME.json says which device the times are of.
"""

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path

from fold.errors import InputError

_COLUMNS = ("st", "end", "time", "stdev")


@dataclass(frozen=True)
class Row:
    """``time`` and ``stdev`` in ms of one layer that replaces the layers ``st + 1 .. end``."""

    st: int
    end: int
    time: float
    stdev: float


def read_table(path: str | Path, device: str | None = None) -> list[Row]:
    """The rows of a latency table in the order of the file.

    Raises:
        InputError: the file is missing or has other columns, a time is negative or not finite, a row is there twice,
            one that must be there (each layer on its own) is not, or the times are not of ``device``.
    """
    if device is not None and device_of(path) != device:
        raise InputError(
            f"{path}: measured on {device_of(path)!r}, not on {device!r}; measure there, with `make table`"
        )
    rows, seen = [], set()
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
    for st in range(max(row.end for row in rows)):
        if (st, st + 1) not in seen:
            raise InputError(f"{path}: row ({st},{st + 1}) is missing; measure it, with `make table`")
    return rows


def device_of(path: str | Path) -> str | None:
    """The name of the device in the JSON file beside a latency table; None where there is no such file."""
    sidecar = Path(path).with_suffix(".json")
    try:
        return str(json.loads(sidecar.read_text(encoding="utf-8"))["device"]["name"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{sidecar}: names no device; bring it along with {path}, or measure again") from error


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
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a CSV file ({error}); give a latency table, from `make table`") from error


def _row(fields: dict[str, str | None], where: str) -> Row:
    try:
        row = Row(int(fields["st"]), int(fields["end"]), float(fields["time"]), float(fields["stdev"]))
    except (ValueError, TypeError) as error:
        values = ",".join(str(fields[name]) for name in _COLUMNS)
        raise InputError(f"{where}: {','.join(_COLUMNS)} are {values}, not four numbers; measure again") from error
    if not 0 <= row.st < row.end:
        raise InputError(f"{where}: st {row.st} and end {row.end} are no segment; it needs 0 <= st < end")
    for name, value in (("time", row.time), ("stdev", row.stdev)):
        if not (math.isfinite(value) and value >= 0):
            raise InputError(f"{where}: {name} is {value}, not a number of ms, 0 or more; measure row again")
    return row
