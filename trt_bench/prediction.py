"""Whether a plan kept its word: the speed-up that `python -m fold plan` predicted, against the one that was measured.

Where the two are far apart, each merge of the plan is timed again, as for the table, beside the whole original network.
So the miss falls into what the table had wrong, merge by merge, and what the merges do in the network but not alone.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

from trt_bench import metadata, segments, stats, timer
from trt_bench.errors import InputError
from trt_bench.runtimes import Loaded, Options

SCHEMA = 1  # of plan.json
MISS = 0.10  # a larger one is traced to the merges
SECONDS = 0.5  # of timing for each segment then


@dataclass(frozen=True)
class Merge:
    """A merge of the plan, or several that are alike: what they are to save together, +- ``error``, in ms."""

    layers: tuple[str, ...]  # of the first
    count: int
    apart: str  # the segments, by name
    merged: str
    saves: float
    error: float


@dataclass(frozen=True)
class Plan:
    """What plan.json says. ``files`` are the ONNX files of its merges' segments by name, where they are beside it."""

    path: str
    where: tuple[str, str, int]  # runtime, device, batch
    precision: str
    removed: frozenset[str]
    original: float  # ms, as ``planned`` and ``error``
    planned: float
    error: float
    merges: tuple[Merge, ...]
    files: dict[str, Path]


def load(path: str) -> Plan:
    """Read a plan.json. Raises InputError if it is missing or not what `python -m fold plan` writes."""
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
        if document["schema"] != SCHEMA:
            raise ValueError(f"schema is {document['schema']!r}")
        latency = {name: _number(document["latency_ms"][name]) for name in ("original", "planned", "error")}
        if not min(latency["original"], latency["planned"]) > 0:
            raise ValueError("a network that takes no time")
        merges = _alike(document["merges"])
        where = str(document["runtime"]), str(document["device"]), int(document["batch"])
        precision, removed = str(document.get("precision", "fp32")), frozenset(map(str, document["removed"]))
    except FileNotFoundError as error:
        raise InputError(f"--plan {path}: no such file; `python -m fold plan` writes it") from error
    except (ValueError, KeyError, TypeError, RecursionError, OSError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"--plan {path}: no plan.json of schema {SCHEMA}: {what}; plan again, `make plan`") from error
    names = {name for merge in merges for name in (merge.apart, merge.merged)}
    files = segments.files(Path(path).parent / "segments", names)
    return Plan(str(path), where, precision, removed, **latency, merges=merges, files=files)


def compare(
    plan: Plan,
    result: dict,
    runtime: ModuleType,
    options: Options,
    progress: Callable[[str], None] = lambda text: None,
) -> dict:
    """The ``prediction`` object of bench.json, for its other content ``result``.

    ``obstacle`` says why prediction and measurement cannot be compared, None if they can. ``miss`` is the predicted
    speed-up over the measured one, less 1. ``merges`` come with what they save as fractions of the original network's
    time: ``planned`` +- ``error``, and, where the miss is large and the segments are there, ``again`` with ``ci95``.
    """
    speedup = plan.original / plan.planned
    fastest = max(plan.planned - plan.error, 1e-3 * plan.planned)
    prediction = {
        "plan": plan.path,
        "latency_ms": {"original": plan.original, "planned": plan.planned, "error": plan.error},
        "speedup": speedup,
        "ci95": [plan.original / (plan.planned + plan.error), plan.original / fastest],
    }
    comparison, obstacle = _comparison(plan, result)
    if obstacle:
        return {**prediction, "obstacle": obstacle}
    miss = speedup / comparison["speedup"] - 1
    merges = [_row(merge, plan.original) for merge in plan.merges]
    if abs(miss) > MISS:
        baseline = next(model for model in result["models"] if model["name"] == comparison["baseline"])
        _time_again(plan, merges, baseline["path"], runtime, options, progress)
    return {**prediction, "obstacle": None, "measured": comparison, "miss": miss, "merges": merges}


def _comparison(plan: Plan, result: dict) -> tuple[dict | None, str | None]:
    """The comparison of the original network with the one that the plan is for, or why there is none."""
    runtime, device, batch = plan.where
    for planned, measured in ((runtime, result["runtime"]), (device, result["device"].get("name"))):
        if planned != measured:
            return None, f"it is for {planned}, and this was measured with {measured}"
    if batch not in result["settings"]["batches"]:
        return None, f"it is for batch {batch}, which was not measured"
    paths = {model["name"]: model["path"] for model in result["models"]}
    precisions = {model["name"]: model["precision"] for model in result["models"]}
    here = [comparison for comparison in result["comparisons"] if comparison["batch"] == batch]
    obstacle = "only one network was measured"
    for comparison in reversed(here):
        baseline, candidate = comparison["baseline"], comparison["candidate"]
        obstacle = _difference(plan, baseline, paths[baseline], frozenset()) or _difference(
            plan, candidate, paths[candidate], plan.removed
        )
        wrong = [name for name in (baseline, candidate) if precisions[name] != plan.precision]
        if wrong and not obstacle:
            obstacle = f"it is for {plan.precision}, and {wrong[0]} is {precisions[wrong[0]]}"
        if not obstacle:
            return comparison, None
    return None, obstacle


def _difference(plan: Plan, name: str, path: str, removed: frozenset[str]) -> str | None:
    """How the network at ``path`` differs from the one without just the activations ``removed``; None if not at all."""
    gone = metadata.removed(path)
    if gone is None:
        return f"{name} does not say which activations were removed; export it from its checkpoint"
    if gone == removed:
        return None
    # "+VALUE=ACTIVATION" among the names is one that was added: having it is what lacking is for the others
    lacks = frozenset(name for name in gone ^ removed if (name in gone) != name.startswith("+"))
    more = (gone ^ removed) - lacks
    what = [f"lacks {_list(lacks)}"] if lacks else []
    what += [f"still has {_list(more)}"] if more else []
    return f"{name} is another network than planned: it {' and '.join(what)}"


def _list(names: frozenset[str], most: int = 3) -> str:
    known = sorted(names)
    more = [f"{len(known) - most} more"] if len(known) > most else []
    return ", ".join([*known[:most], *more])


def _alike(merges: list[dict]) -> tuple[Merge, ...]:
    """The merges of a plan.json, those of the same segments as one."""
    found: dict[tuple[str, str], Merge] = {}
    for entry in merges:
        pair = str(entry["segments"]["apart"]), str(entry["segments"]["merged"])
        before = found.get(pair, Merge(tuple(map(str, entry["layers"])), 0, *pair, 0.0, 0.0))
        # their errors are one and the same, so they add up
        saves, error = before.saves + _number(entry["saves_ms"]), before.error + _number(entry["error_ms"])
        found[pair] = Merge(before.layers, before.count + 1, *pair, saves, error)
    return tuple(found.values())


def _number(value: object) -> float:
    if not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise ValueError(f"{value!r} is no time")
    return float(value)


def _row(merge: Merge, original: float) -> dict:
    return {
        "layers": list(merge.layers),
        "count": merge.count,
        "segments": {"apart": merge.apart, "merged": merge.merged},
        "planned": merge.saves / original,
        "error": merge.error / original,
        "again": None,
        "ci95": None,
    }


def _time_again(
    plan: Plan, rows: list[dict], original: str, runtime: ModuleType, options: Options, progress: Callable
) -> None:
    """Fill in what each of ``rows`` saves now, in place: its two segments beside the original network, interleaved."""

    def ready(path: str | Path) -> Loaded:
        model = runtime.load(path, plan.where[2], options)
        model.bind(np.random.default_rng(0).standard_normal(model.input_shape, dtype=np.float32))
        return model

    whole = ready(original)
    for number, row in enumerate(rows):
        if not set(row["segments"].values()) <= set(plan.files):
            continue
        at = f"the prediction is off; merge {number + 1} of {len(rows)} again"
        progress(at)
        pair = [ready(plan.files[row["segments"][which]]) for which in ("apart", "merged")]
        timing = timer.measure(
            [whole.repeat, *(timer.in_network(segment.repeat, whole.repeat) for segment in pair)],
            SECONDS,
            progress=lambda text, at=at: progress(text and f"{at}: {text}"),
        )
        both, apart, merged = np.reshape(timing.samples_ms, (3, -1, 2)).sum(axis=2)
        again, low, high = (row["count"] * value for value in stats.median_interval((apart - merged) / both))
        row |= {"again": float(again), "ci95": [float(low), float(high)]}
