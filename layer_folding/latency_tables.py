"""The latency table of a network: what each of its segments takes on a device, in milliseconds.

`python -m trt_bench table` writes it as two files. ``latency.csv`` has a row for each segment that is one merged layer
(`layer_folding.latency_rows`). ``latency.json`` beside it has every segment with its samples, and the device and
settings. The JSON file grows as segments are timed, and the CSV file is written when all are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from . import records
from .device_records import DeviceRecord
from .errors import InputError
from .files import write_json
from .latency_rows import Row, read_rows, write_rows
from .records import NonNegative, Size
from .segment_names import merged_span

SCHEMA = 4


@dataclass(frozen=True)
class Conditions:
    """What a latency depends on besides the network. ``device`` is a name, and ``batch`` a number of images."""

    runtime: str
    device: str
    batch: Size
    precision: str

    def __str__(self) -> str:
        return f"{self.runtime} on {self.device}, batch {self.batch}, {self.precision}"


@dataclass(frozen=True)
class Settings:
    """How segments were timed: ``batch`` images in ``precision``, at each visit for ``seconds``.

    A segment was visited until half its 95 % interval was less than ``bound`` of its median, at most ``repeats`` times.
    ``runtime`` has what the runtime said of how it ran them, such as its number of threads.
    """

    batch: Size
    precision: str
    seconds: NonNegative
    bound: NonNegative
    repeats: Size
    runtime: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class TimedSegment:
    """A segment that was timed, and the ``names`` of all segments that are the same.

    A visit in ``visits_ms`` is a list of samples in ms. ``whole_ms`` has the median time of the whole network beside
    each visit; it is empty for the whole network itself. ``time`` (median), ``stdev`` and the interval ``ci95`` in ms
    are those of the visits that were believed, scaled to a machine on which the whole network takes its own ``time``.
    ``file`` is the name of its ONNX file and ``sha256`` that file's digest.
    ``input_shape`` includes the batch.
    """

    names: tuple[str, ...]
    file: str
    sha256: str
    input_shape: tuple[Size, ...]
    time: NonNegative
    stdev: NonNegative
    ci95: tuple[NonNegative, NonNegative]
    visits_ms: tuple[tuple[NonNegative, ...], ...]
    whole_ms: tuple[NonNegative, ...]

    def __post_init__(self) -> None:
        if self.error < 0:
            raise ValueError(f"ci95 is {list(self.ci95)}, not a low and a high end")
        if not self.visits_ms or not all(self.visits_ms):
            raise ValueError("visits_ms has no samples")
        if self.whole_ms and (len(self.whole_ms) != len(self.visits_ms) or not all(self.whole_ms)):
            raise ValueError(f"whole_ms is {list(self.whole_ms)}, not a time for each of {len(self.visits_ms)} visits")

    @property
    def error(self) -> float:
        """Half the 95 % interval of ``time``, ms."""
        return (self.ci95[1] - self.ci95[0]) / 2


@dataclass(frozen=True)
class Table:
    """The ``segments`` of a network with their times in ms, and where and how they were measured.

    ``runtime`` timed them with these ``settings``. ``device`` is the record of the device's state, with its ``name``.
    ``reason`` says why this runtime was chosen. A table that is not ``complete`` can only be measured further.
    ``source`` is what messages call the table.
    """

    runtime: str
    reason: str
    device: DeviceRecord
    settings: Settings
    segments: tuple[TimedSegment, ...]
    complete: bool = True
    source: str = field(default="the latency table", compare=False)  # the file does not hold it

    def __post_init__(self) -> None:
        if self.device.name is None:
            raise ValueError("device.name is missing")

    @property
    def conditions(self) -> Conditions:
        return Conditions(self.runtime, str(self.device.name), self.settings.batch, self.settings.precision)

    @property
    def rows(self) -> list[Row]:
        """What latency.csv has: the segments that are one merged layer, in the order of the layers."""
        spans = {merged_span(name): segment for segment in self.segments for name in segment.names}
        return [Row(*span, spans[span].time, spans[span].stdev) for span in sorted(filter(None, spans))]

    def timing(self, name: str, input_shape: tuple[int, ...]) -> TimedSegment:
        """The segment ``name``, which takes ``input_shape`` (without the batch) in the network that is asked about.

        Raises InputError where the table has no such segment, or one of another input.
        """
        found = self._by_name.get(name)
        if found is None:
            raise InputError(
                f"{self.source}: segment {name} is missing; measure the segments of this network, `make table`"
            )
        if found.input_shape[1:] != tuple(input_shape):
            raise InputError(
                f"{self.source}: segment {name} takes {list(found.input_shape[1:])}, in this network "
                f"{list(input_shape)}; give the table of this network"
            )
        return found

    @cached_property
    def _by_name(self) -> dict[str, TimedSegment]:
        return {name: segment for segment in self.segments for name in segment.names}


def sidecar_of(path: str | Path) -> Path:
    """The JSON file beside the ``latency.csv`` at ``path``."""
    return Path(path).with_suffix(".json")


def read_table(path: str | Path) -> Table:
    """Read a latency table that was measured here: the CSV file at ``path`` and the JSON file beside it.

        >>> import layer_folding as lf
        >>> lf.read_table("run/latency.csv").complete
        True

    Args:
        path: the latency.csv, with the JSON file beside it.

    Raises:
        InputError: a file is missing or damaged, not all segments are measured yet, or the two files say different
            things.
    """
    rows, sidecar = read_rows(path), sidecar_of(path)
    table = read_sidecar(sidecar, f"bring it along with {path}, or measure again, with `make table`")
    if not table.complete:
        raise InputError(f"{sidecar}: not all segments are measured yet; give `make table` again, it goes on")
    known = {(row.st, row.end): row.time for row in table.rows}
    for row in rows:
        if known.get((row.st, row.end)) != row.time:
            raise InputError(
                f"{path}: row {row.st},{row.end} is not that of {sidecar}; bring both files from the same measurement"
            )
    return replace(table, source=str(path))


def read_sidecar(path: Path, remedy: str) -> Table:
    """Read the JSON file alone; the table may not be complete. Raises InputError that ends with the ``remedy``."""
    return records.read(path, Table, SCHEMA, remedy)


def write_table(path: str | Path, table: Table) -> None:
    """Write ``latency.csv`` at ``path``, if the table is complete, and the JSON file beside it, each atomically."""
    if table.complete:
        write_rows(path, table.rows)
    document = records.encode(table, SCHEMA)
    del document["source"]
    write_json(sidecar_of(path), document)
