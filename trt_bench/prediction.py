"""Whether a plan kept its word: the speed-up that `python -m fold plan` predicted, against the one that was measured.

Where the two are far apart, each merge of the plan is timed again, as for the table, beside the whole original network.
So the miss falls into what the table had wrong, merge by merge, and what the merges do in the network but not alone.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from layer_folding import stats
from layer_folding.bench_results import BenchResult, ModelRecord
from layer_folding.command_line import labelled
from layer_folding.plans import Plan, PlannedMerge, read_plan
from layer_folding.prediction_records import MISS, PlannedLatency, PredictedMerge, Prediction, SegmentPair
from layer_folding.stats import Comparison

from . import onnx_header, segments, timer
from .runtimes import Loaded, Options, Runtime

SECONDS = 0.5  # of timing for each segment


@dataclass(frozen=True)
class _Alike:
    """Merges of a plan that are the same segments: what they are to save together, +- ``error``, in ms."""

    layers: tuple[str, ...]  # of the first
    count: int
    apart: str  # the segments, by name
    merged: str
    saves: float
    error: float


@dataclass(frozen=True)
class Planned:
    """The ``plan`` that was read from ``path``. ``files`` are the ONNX files of its segments by name, as far as they
    are in the folder ``segments`` beside it."""

    path: Path
    plan: Plan
    files: dict[str, Path]


def load(path: str | Path) -> Planned:
    """Read a plan.json and find its segments. Raises InputError as `read_plan`, and for a damaged segments.json."""
    plan = read_plan(path)
    names = {name for merge in plan.merges for name in (merge.apart, merge.merged)}
    return Planned(Path(path), plan, segments.files(Path(path).parent / "segments", names))


def compare(
    planned: Planned,
    result: BenchResult,
    runtime: Runtime,
    options: Options,
    progress: Callable[[str], None] = lambda text: None,
) -> Prediction:
    """What a plan predicted beside what ``result`` measured.

    Where the miss is large, the merges whose segments are there are timed again.
    """
    plan = planned.plan
    fastest = max(plan.latency_ms - plan.error_ms, 1e-3 * plan.latency_ms)
    ci95 = (plan.original_ms / (plan.latency_ms + plan.error_ms), plan.original_ms / fastest)
    latency = PlannedLatency(plan.original_ms, plan.latency_ms, plan.error_ms)
    comparison = _comparison(plan, result)
    if isinstance(comparison, _Obstacle):
        return Prediction(str(planned.path), plan.speedup, ci95, comparison.reason, latency)
    miss = plan.speedup / comparison.speedup - 1
    merges = [_unmeasured(alike, plan.original_ms) for alike in _alike(plan.merges)]
    if abs(miss) > MISS:
        baseline = result.model(comparison.baseline, comparison.batch)
        merges = _time_again(planned, merges, baseline.path, runtime, options, progress)
    return Prediction(str(planned.path), plan.speedup, ci95, None, latency, comparison, miss, tuple(merges))


@dataclass(frozen=True)
class _Obstacle:
    """Why prediction and measurement cannot be compared."""

    reason: str


def _comparison(plan: Plan, result: BenchResult) -> Comparison | _Obstacle:
    """The comparison of the original network with the one that the plan is for, or why there is none."""
    wanted = plan.conditions
    for planned, measured in ((wanted.runtime, result.runtime), (wanted.device, result.device.name)):
        if planned != measured:
            return _Obstacle(f"it is for {planned}, and this was measured with {measured}")
    if (result.settings.in_flight or 1) > 1:
        return _Obstacle("it is for one inference at a time, and two were in flight")
    models = {model.name: model for model in result.models if model.batch == wanted.batch}
    if not models:
        return _Obstacle(f"it is for batch {wanted.batch}, which was not measured")
    reason = "only one network was measured"
    for comparison in reversed([comparison for comparison in result.comparisons if comparison.batch == wanted.batch]):
        why_not = _differences(plan, models[comparison.baseline], models[comparison.candidate])
        if why_not is None:
            return comparison
        reason = why_not
    return _Obstacle(reason)


def _differences(plan: Plan, baseline: ModelRecord, candidate: ModelRecord) -> str | None:
    """Why two networks are not the original and the planned one; None if they are."""
    for model, changes in ((baseline, frozenset[str]()), (candidate, frozenset(plan.changes))):
        difference = _difference(model.name, model.path, changes)
        if difference:
            return difference
    for model in (baseline, candidate):
        if model.precision != plan.conditions.precision:
            return f"it is for {plan.conditions.precision}, and {model.name} is {model.precision}"
    return None


def _difference(name: str, path: str, changes: frozenset[str]) -> str | None:
    """How the network at ``path`` differs from the one with just these ``changes``; None if not at all."""
    gone = onnx_header.changes(path)
    if gone is None:
        return f"{name} does not say which activations were removed; export it from its checkpoint"
    if gone == changes:
        return None
    # "+VALUE=ACTIVATION" among the names is one that was added: having it is what lacking is for the others
    lacks = frozenset(name for name in gone ^ changes if (name in gone) != name.startswith("+"))
    more = (gone ^ changes) - lacks
    what = [f"lacks {_list(lacks)}"] if lacks else []
    what += [f"still has {_list(more)}"] if more else []
    return f"{name} is another network than planned: it {' and '.join(what)}"


def _list(names: frozenset[str], most: int = 3) -> str:
    known = sorted(names)
    more = [f"{len(known) - most} more"] if len(known) > most else []
    return ", ".join([*known[:most], *more])


def _alike(merges: Collection[PlannedMerge]) -> list[_Alike]:
    """The merges of a plan, those of the same segments as one."""
    found: dict[tuple[str, str], _Alike] = {}
    for merge in merges:
        pair = merge.apart, merge.merged
        before = found.get(pair, _Alike(merge.layers, 0, *pair, 0.0, 0.0))
        # their errors are one and the same, so they add up
        saves, error = before.saves + merge.saves_ms, before.error + merge.error_ms
        found[pair] = _Alike(before.layers, before.count + 1, *pair, saves, error)
    return list(found.values())


def _unmeasured(alike: _Alike, original_ms: float) -> PredictedMerge:
    pair = SegmentPair(alike.apart, alike.merged)
    return PredictedMerge(alike.layers, alike.count, pair, alike.saves / original_ms, alike.error / original_ms)


def _time_again(
    planned: Planned,
    merges: list[PredictedMerge],
    original: str,
    runtime: Runtime,
    options: Options,
    progress: Callable[[str], None],
) -> list[PredictedMerge]:
    """``merges`` with what each saves now: its two segments are timed beside the original network, interleaved."""

    def ready(path: str | Path) -> Loaded:
        model: Loaded = runtime.load(path, planned.plan.conditions.batch, options)
        model.bind(np.random.default_rng(0).standard_normal(model.input_shape, dtype=np.float32))
        return model

    whole = ready(original)
    found = []
    for number, merge in enumerate(merges, start=1):
        files = [planned.files.get(name) for name in (merge.segments.apart, merge.segments.merged)]
        known = [path for path in files if path is not None]
        if len(known) < len(files):
            found.append(merge)
            continue
        at = f"the prediction is off; merge {number} of {len(merges)} again"
        progress(at)
        pair = [ready(path) for path in known]
        in_place = [timer.in_network(segment.repeat, whole.repeat) for segment in pair]
        timing = timer.measure([whole.repeat, *in_place], SECONDS, progress=labelled(progress, at))
        for segment in pair:
            segment.close()
        both, apart, merged = np.reshape(timing.samples_ms, (3, -1, 2)).sum(axis=2)
        again, low, high = (merge.count * float(value) for value in stats.median_interval((apart - merged) / both))
        found.append(replace(merge, again=again, ci95=(low, high)))
    whole.close()
    return found
