"""Latency tables for tests: each time is given in place of measured."""

from collections.abc import Mapping

from layer_folding.device_records import DeviceRecord
from layer_folding.fit_choices import Choice
from layer_folding.fold.plan.candidates import Alternative, Candidates
from layer_folding.latency_tables import Settings, Table, TimedSegment


def timed(name: str, time: float, input_shape: tuple[int, ...] = (3, 8, 8), error: float = 0.01) -> TimedSegment:
    """A segment of batch 1 that takes ``time`` +- ``error`` ms."""
    ends = (time - error, time + error)
    return TimedSegment((name,), f"{name}.onnx", name, (1, *input_shape), time, 0.01, ends, ((time,),), ())


def table(*segments: TimedSegment) -> Table:
    """``segments`` as if measured with fp32 and batch 1 on "EPYC"."""
    settings = Settings(batch=1, precision="fp32", seconds=0.5, bound=0.02, repeats=5, runtime={"threads": 1})
    return Table("onnxruntime", "because of the test", DeviceRecord(name="EPYC"), settings, segments)


def table_of(
    found: Candidates, merged: Mapping[tuple[str, ...], float], fitted: Mapping[Choice, float] | None = None
) -> Table:
    """The table of ``found``: 10 ms in all, 2 ms each span as it is; in place of its layers 3 ms, or what ``merged``
    gives for the changes of an exact merge, ``fitted`` for a fit."""
    given = {**merged, **(fitted or {})}
    times = {found.whole: (10.0, found.input_shape)}
    alternatives = [(candidate, each) for candidate in found.found for each in candidate.alternatives]
    for candidate, alternative in alternatives:
        times[candidate.apart] = (2.0, candidate.input_shape)
        times.setdefault(alternative.segment, (3.0, candidate.input_shape))
    for candidate, alternative in alternatives:
        if (alternative.choice or alternative.changes) in given:
            time = given[alternative.choice or alternative.changes]
            times[alternative.segment] = (time, candidate.input_shape)
    return table(*(timed(name, time, shape) for name, (time, shape) in times.items()))


def with_activation(found: Candidates, *activations: str) -> Alternative:
    """The alternative without ``activations`` that has another behind its merged layer."""
    candidate = next(c for c in found.found if c.merge.activations == activations)
    (alternative,) = (a for a in candidate.alternatives if a is not candidate.exact and a.shape is None)
    return alternative
