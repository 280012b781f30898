"""Latency tables: what each segment of a network takes on a device, in milliseconds.

The CSV has the columns of the tables that Kim et al. publish for two-stage dynamic programming (ICML 2023, arXiv
2301.12187): row ``(st, end)`` is the time of one merged layer in place of the layers ``st + 1 .. end``. NAME.json
beside it, which `python -m trt_bench table` writes too, has all segments by name, and the device.
"""

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path

from fold.errors import InputError

_COLUMNS = ("st", "end", "time", "stdev")
_MISSING = "{}: no such file; measure it, with `make table`"


@dataclass(frozen=True)
class Row:
    """``time`` and ``stdev`` in ms of one layer that replaces the layers ``st + 1 .. end``."""

    st: int
    end: int
    time: float
    stdev: float


@dataclass(frozen=True)
class Timing:
    """``time`` in ms of one segment, and ``error``: half its 95 % interval. ``input_shape`` is without the batch."""

    time: float
    error: float
    input_shape: tuple[int, ...]


@dataclass(frozen=True)
class Timings:
    """The segments of a latency table by name, and where they were measured."""

    path: Path
    segments: dict[str, Timing]
    device: str
    runtime: str
    batch: int
    precision: str

    def of(self, name: str, input_shape: tuple[int, ...]) -> Timing:
        """The timing of a segment. Raises InputError where the table has none, or one of another input."""
        if name not in self.segments:
            raise InputError(f"{self.path}: row {name} is missing; measure the segments of this network, `make table`")
        timing = self.segments[name]
        if timing.input_shape != tuple(input_shape):
            raise InputError(
                f"{self.path}: row {name} takes {list(timing.input_shape)}, in this network {list(input_shape)}; "
                "give the table of this network"
            )
        return timing


def require(path: str | Path, **wanted: object) -> None:
    """Raise InputError where a table was measured with another ``device``, ``batch`` or ``precision`` than is
    ``wanted``, or does not say; None will do with any."""
    wanted = {name: value for name, value in wanted.items() if value is not None}
    sidecar = Path(path).with_suffix(".json")
    if not wanted:
        return
    try:
        document = json.loads(sidecar.read_text(encoding="utf-8"))
        measured = {**document.get("settings", {}), "device": document["device"]["name"]}
    except FileNotFoundError as error:
        if not Path(path).exists():
            raise InputError(_MISSING.format(path)) from error
        asked = " and ".join(f"--{name}" for name in wanted)
        raise InputError(f"{sidecar}: no such file, needed for {asked}; bring it along with {path}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{sidecar}: damaged; bring it along with {path} again, or measure again") from error
    for name, value in wanted.items():
        here = measured.get(name, "unknown")
        if here != value:
            raise InputError(
                f"{path}: measured with {name} {here}, not {value}; measure again, with `make table`, or give "
                f"--{name} '{here}' to plan with this table all the same"
            )


def read_chain(path: str | Path) -> list[Row]:
    """The rows of a table that has every layer of a chain on its own too; else as `read_table`."""
    rows = read_table(path)
    seen = {(row.st, row.end) for row in rows}
    for st in range(max(row.end for row in rows)):
        if (st, st + 1) not in seen:
            raise InputError(f"{path}: row ({st},{st + 1}) is missing; measure it, with `make table`")
    return rows


def read_table(path: str | Path) -> list[Row]:
    """The rows of a latency table in the order of the file.

    Raises:
        InputError: the file is missing or has other columns, a time is negative or not finite, a row is there twice or
            is known to be missing.
    """
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
    return rows


def read_timings(path: str | Path) -> Timings:
    """All segments of a latency table, from the JSON file beside it; that the CSV says the same is checked.

    Raises:
        InputError: as `read_table`; the JSON file is missing, damaged or incomplete, or says something else.
    """
    sidecar = Path(path).with_suffix(".json")
    rows = read_table(path)
    try:
        document = json.loads(sidecar.read_text(encoding="utf-8"))
        if not document["complete"]:
            raise InputError(f"{sidecar}: not all segments are measured yet; give `make table` again, it goes on")
        segments = {name: _timing(entry) for entry in document["segments"] for name in entry["names"]}
        settings = document["settings"]
        where = (str(document["device"]["name"]), str(document["runtime"]))
        how = (int(settings["batch"]), str(settings["precision"]))
    except FileNotFoundError as error:
        raise InputError(f"{sidecar}: no such file; bring it along with {path}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{sidecar}: damaged, or of another version ({error}); measure again, `make table`") from error
    for row in rows:
        name = f"{row.st},{row.end}"
        if name not in segments or segments[name].time != row.time:
            raise InputError(f"{path}: row {name} is not that of {sidecar}; bring both files from the same measurement")
    return Timings(Path(path), segments, *where, *how)


def _timing(entry: dict) -> Timing:
    low, high = map(float, entry["ci95"])
    timing = Timing(float(entry["time"]), (high - low) / 2, tuple(entry["input_shape"][1:]))
    if not (0 <= timing.time < math.inf and 0 <= timing.error < math.inf):
        raise ValueError(f"time {timing.time} +- {timing.error} of {entry['names']}")
    return timing


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
        raise InputError(_MISSING.format(path)) from error
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
