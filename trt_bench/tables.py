"""Measure a latency table: every segment timed until two visits agree.

The table grows as segments are timed, and a run that finds one goes on behind what it holds.

A segment is timed in the company of the whole network, so that it finds the caches as it would there
(`timer.in_network`). The whole network is timed at each turn, too. What slows the machine down for a while slows both
down alike, so a segment counts as a part of the whole network, in whose own time the parts become ms again.

What else runs on a machine can still slow a segment down for as long as it is timed, so evenly that no interval shows
it. So all segments are visited in turn, and again: a visit is believed when another, at another time, agrees with it.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from layer_folding import records, stats
from layer_folding.command_line import labelled
from layer_folding.errors import CheckError, InputError
from layer_folding.latency_tables import Settings, Table, TimedSegment, read_sidecar, sidecar_of, write_table

from . import device, inference_times, onnx_header, segments, sysfs, timer
from .runtimes import Loaded, Options, Runtime
from .segments import SegmentNetwork

AGREE = 0.05  # visits that are slower than the fastest by more were disturbed

Samples = tuple[float, ...]  # of a visit, ms


@dataclass(frozen=True)
class How:
    """How long a segment is timed."""

    seconds: float = 0.5  # at each visit
    bound: float = 0.02  # visited until half the 95 % interval is less than this fraction of the median
    repeats: int = 5  # but at most so often
    force: bool = False  # mix device states


@dataclass(frozen=True)
class Measurement:
    """A complete ``table``, and how it came about.

    ``visits`` is how many were made now. ``waited`` is the part of the time in which this process was ready to run and
    had no core.
    """

    table: Table
    visits: int
    waited: float


def measure(
    folder: str | Path,
    output: str | Path,
    runtime: Runtime,
    reason: str,
    options: Options,
    how: How,
    progress: Callable[[str], None] = lambda text: None,
) -> Measurement:
    """Time the segments of ``folder`` into the latency table at ``output`` (.csv), which may have been begun.

    Raises InputError for what cannot be used, or where the table was begun with other settings or in another state of
    the device, and CheckError for a segment that computes NaN or infinities.
    """
    wanted = segments.load(folder)
    table = _begun(output, _empty(folder, wanted, runtime, reason, options, how), how.force)
    known = {segment.sha256: segment for segment in table.segments}
    stand = _Stand(segments.whole(wanted, folder), runtime, options, how)
    visits, waiting = 0, _Waiting()
    for visit, (number, segment) in itertools.product(range(how.repeats), enumerate(wanted, start=1)):
        before = known.get(segment.digest)
        if before and (len(before.visits_ms) > visit or settled(before, how.bound)):
            continue
        label = f"visit {visit + 1}, segment {number} of {len(wanted)}, {segment.path.name}"
        model, samples, beside = stand.visit(segment, labelled(progress, label))
        visited, wholes = (before.visits_ms, before.whole_ms) if before else ((), ())
        known[segment.digest] = _timed(segment, model.input_shape, (*visited, samples), (*wholes, *beside))
        ran = replace(table.settings, runtime={**table.settings.runtime, **records.as_json(model.settings)})
        table = replace(table, settings=ran, segments=tuple(known.values()))
        write_table(output, table)
        visits += 1
    stand.close()
    whole = known[stand.whole.digest].time
    found = [replace(known[each.digest], file=each.path.name, names=each.names) for each in wanted]
    table = replace(table, segments=tuple(_scaled(each, whole) for each in found), complete=True, source=str(output))
    write_table(output, table)
    return Measurement(table, visits, waiting.part())


def _comparable(segment: TimedSegment) -> list[np.ndarray]:
    """The visits to ``segment`` as parts of the whole network; those to the whole network in ms."""
    if not segment.whole_ms:
        return [np.array(samples) for samples in segment.visits_ms]
    return [np.array(samples) / beside for samples, beside in zip(segment.visits_ms, segment.whole_ms, strict=True)]


def settled(segment: TimedSegment, bound: float) -> bool:
    """Whether two visits agree, and half the 95 % interval is less than ``bound`` of the median."""
    visits = _comparable(segment)
    if len(visits) < 2:
        return False
    median, low, high = stats.median_interval(np.concatenate(_believed(visits)))
    return (high - low) / 2 < bound * median


def _believed(visits: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
    """Of the visits to a segment those that agree with the fastest; all, where no other does."""
    medians = [float(np.median(samples)) for samples in visits]
    limit = (1 + AGREE) * min(medians)
    agreeing = [samples for samples, median in zip(visits, medians, strict=True) if median <= limit]
    return agreeing if len(agreeing) > 1 else visits


def _timed(
    segment: SegmentNetwork,
    input_shape: tuple[int, ...],
    visits: tuple[tuple[float, ...], ...],
    whole: tuple[float, ...],
) -> TimedSegment:
    """``segment`` by its ``visits`` so far; ``whole`` is the time of the whole network beside each, ms."""
    named = (segment.names, segment.path.name, segment.digest, tuple(input_shape))
    timed = TimedSegment(*named, 0.0, 0.0, (0.0, 0.0), visits, whole)
    return _scaled(timed, float(np.median(whole)) if whole else 1.0)


def _scaled(segment: TimedSegment, whole: float) -> TimedSegment:
    """``segment`` with the time that its visits tell, where the whole network takes ``whole`` ms."""
    samples = (whole if segment.whole_ms else 1.0) * np.concatenate(_believed(_comparable(segment)))
    median, low, high = stats.median_interval(samples)
    return replace(segment, time=median, stdev=float(np.std(samples)), ci95=(low, high))


class _Stand:
    """Times segments, each in the company of the whole network, which is loaded when it is first needed."""

    def __init__(self, whole: SegmentNetwork, runtime: Runtime, options: Options, how: How):
        self.whole, self._runtime, self._options, self._how = whole, runtime, options, how

    def visit(
        self, segment: SegmentNetwork, progress: Callable[[str], None]
    ) -> tuple[Loaded, Samples, tuple[float, ...]]:
        """Time ``segment``: the network, closed again, its samples in ms, and the median time of the whole network
        beside it, which is nothing where that is the segment. Raises InputError and CheckError."""
        progress("loading")
        model = self._load(segment)
        alone = segment == self.whole
        beside: list[np.ndarray] = []

        def whole(count: int) -> np.ndarray:
            trace = self._company.repeat(count)
            beside.append(inference_times.latency(trace))
            return trace

        repeat = model.repeat if alone else timer.in_network(model.repeat, whole)
        timing = timer.measure([repeat], self._how.seconds, progress=progress, untimed=0)
        model.close()  # a board cannot hold the buffers of all segments
        return model, tuple(timing.samples_ms[0]), () if alone else (float(np.median(np.concatenate(beside))),)

    def close(self) -> None:
        """Give back the memory of the whole network, if it was loaded."""
        if "_company" in vars(self):
            self._company.close()

    @cached_property
    def _company(self) -> Loaded:
        return self._load(self.whole)

    def _load(self, segment: SegmentNetwork) -> Loaded:
        """A segment with random input. Raises CheckError where it computes NaN or infinities from that."""
        model: Loaded = self._runtime.load(segment.path, self._options.batches[0], self._options)
        example = np.random.default_rng(0).standard_normal(model.input_shape, dtype=np.float32)
        if not np.isfinite(model.infer(example)).all():
            raise CheckError(
                f"{segment.path}: computes NaN or infinity from random input; export it in another precision"
            )
        model.bind(example)
        return model


class _Waiting:
    """For how much of the time since its making this process was ready to run and had no core."""

    def __init__(self) -> None:
        self._began, self._before = time.monotonic(), _waited_s()

    def part(self) -> float:
        return (_waited_s() - self._before) / (time.monotonic() - self._began)


def _waited_s() -> float:
    """How long this process has waited for a core; 0 where the system does not tell."""
    counters = (sysfs.text(Path("/proc/self/schedstat")) or "").split()
    return 1e-9 * int(counters[1]) if len(counters) == 3 else 0.0


def _empty(
    folder: str | Path,
    wanted: Sequence[SegmentNetwork],
    runtime: Runtime,
    reason: str,
    options: Options,
    how: How,
) -> Table:
    """The table of a measurement that is about to begin. Raises InputError where the segments differ in precision."""
    precisions = sorted({onnx_header.read(segment.path).precision or "unknown" for segment in wanted})
    if len(precisions) > 1:
        raise InputError(f"{folder}: mixes segments in {', '.join(precisions)}; export them again, in one precision")
    return Table(
        runtime=runtime.name,
        reason=reason,
        device=runtime.device(options),
        settings=Settings(options.batches[0], precisions[0], how.seconds, how.bound, how.repeats),
        segments=(),
        complete=False,
    )


def _begun(output: str | Path, empty: Table, force: bool) -> Table:
    """``empty``, with what an earlier run has timed. Raises InputError where that was another measurement."""
    sidecar = sidecar_of(output)
    if not sidecar.exists():
        return empty
    before = read_sidecar(sidecar, "give another -o, or remove it")
    same = replace(before.settings, runtime={}) == empty.settings
    if not same or before.runtime != empty.runtime:
        raise InputError(f"{sidecar}: was begun with {_how(before)}, not {_how(empty)}; give another -o, or remove it")
    different = device.differences(before.device, empty.device)
    if different and before.segments and not force:
        raise InputError(
            f"{sidecar}: was begun in another state of the device ({'; '.join(different)}); restore it, give --force "
            "to mix them, or remove the file"
        )
    return replace(empty, settings=before.settings, segments=before.segments)


def _how(table: Table) -> str:
    settings = ", ".join(f"{name} {value}" for name, value in vars(table.settings).items() if name != "runtime")
    return f"{table.runtime} and {settings}"
