"""Time networks against each other: files in, the content of bench.json out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

from trt_bench import evalset, metadata, monitor, profile, stats, timer, trace
from trt_bench.errors import CheckError, InputError
from trt_bench.results import SCHEMA
from trt_bench.runtimes import Loaded, Options

Progress = Callable[[str], None]
# How often a network is loaded while it is timed on a CPU, where its place in memory counts: an unlucky one of several
# does not decide. On a GPU it is loaded once: loading takes long there.
LOADS = 3


@dataclass(frozen=True)
class Bench:
    """What to measure besides latency, and for how long."""

    seconds: float = 3.0  # of timing for each network and batch size
    data: str | None = None  # an eval.npz to measure accuracy on
    profile: bool = False  # a second run with the profiler on
    seed: int = 0


def bench(
    paths: Sequence[str],
    runtime: ModuleType,
    reason: str = "",
    options: Options | None = None,
    what: Bench | None = None,
    progress: Progress = lambda text: None,
) -> tuple[dict, list[np.ndarray]]:
    """Load, check and time the ONNX files ``paths`` interleaved: (content of bench.json, trace of each of its models).

    The first is the baseline, each other one is compared with it, for each batch size of ``options``. Before any
    timing, raises InputError for what cannot be used and CheckError for a network that computes infinities or NaN.
    """
    options, what = options or Options(), what or Bench()
    names = _names(paths)
    images = evalset.load(what.data) if what.data else None
    networks = [metadata.read(path) for path in paths]
    loaded = {batch: _load(paths, runtime, batch, options, what.seed, progress) for batch in options.batches}
    first = loaded[options.batches[0]]
    scores = [evalset.accuracy(m, images, p, progress) if images else None for m, p in zip(first, paths, strict=True)]
    device = runtime.device(options)
    watch = monitor.Monitor(device)
    rails = monitor.power(device)
    models, traces, comparisons, timing = [], [], [], None
    loads = LOADS if device["kind"] == "cpu" else 1
    for batch in options.batches:
        loaded[batch], timing = _timed(
            loaded[batch],
            lambda batch=batch: _load(paths, runtime, batch, options, what.seed, progress),
            loads,
            what.seconds,
            lambda text: progress(text and f"{', '.join(names)}: {text}"),
            watch,
        )
        traces += timing.traces
        for index, (name, path, network, model) in enumerate(zip(names, paths, networks, loaded[batch], strict=True)):
            models.append(
                {
                    "name": name,
                    "path": str(path),
                    "precision": network.get("precision", "unknown"),
                    "batch": batch,
                    "input_shape": list(model.input_shape),
                    "latency_ms": stats.summary(
                        timing.samples_ms[index], trace.latency(timing.traces[index]), what.seed
                    ),
                    "samples_ms": timing.samples_ms[index],
                    "host_ms": float(np.median(timing.host_ms[index])),
                    "parts_ms": _parts(timing.traces[index]) if device["kind"] == "gpu" else None,
                    "accuracy": scores[index],
                    "energy": monitor.energy(model.repeat, timing.settings["iterations_per_block"][index], rails),
                    "profile": profile.measure(model, progress) if what.profile else None,
                    "network": network,
                    "engine": model.built or None,
                }
            )
        comparisons += [
            {
                "baseline": names[0],
                "candidate": name,
                **stats.compare(timing.samples_ms[0], samples, what.seed),
                "batch": batch,
            }
            for name, samples in zip(names[1:], timing.samples_ms[1:], strict=True)
        ]
    result = {
        "schema": SCHEMA,
        "runtime": runtime.__name__.rpartition(".")[2],
        "reason": reason,
        "device": {**device, "while_timed": watch.summary()},
        "settings": {
            "batches": list(options.batches),
            "input": "standard normal float32, the same for all networks",
            "seed": what.seed,
            "data": what.data,
            "images": len(images.images) if images else None,
            "bootstrap_resamples": stats.RESAMPLES,
            **timing.settings,
            "loads": loads,
            **first[0].settings,
        },
        "models": models,
        "comparison": comparisons[-1] if comparisons else None,
        "comparisons": comparisons,
    }
    return result, traces


def _timed(
    models: list[Loaded],
    load: Callable[[], list[Loaded]],
    loads: int,
    seconds: float,
    progress: Progress,
    between: Callable[[], None],
) -> tuple[list[Loaded], timer.Timing]:
    """``models`` timed interleaved, loaded anew on the way until they were ``loads`` times; the last load of them."""
    parts = [timer.measure([m.repeat for m in models], seconds / loads, progress=progress, between=between)]
    for _ in range(loads - 1):
        models = load()
        parts.append(timer.measure([m.repeat for m in models], seconds / loads, progress=progress, between=between))
    return models, timer.joined(parts)


def _load(
    paths: Sequence[str], runtime: ModuleType, batch: int, options: Options, seed: int, progress: Progress
) -> list[Loaded]:
    """All networks at one batch size, with the same random input, after a look at what they make of it."""
    models = []
    for path in paths:
        progress(f"loading {path}")
        models.append(runtime.load(path, batch, options))
        if models[-1].input_shape != models[0].input_shape:
            raise InputError(
                f"{path}: takes input {list(models[-1].input_shape)}, but {paths[0]} takes "
                f"{list(models[0].input_shape)}; give networks of the same task"
            )
    example = np.random.default_rng(seed).standard_normal(models[0].input_shape, dtype=np.float32)
    for model, path in zip(models, paths, strict=True):
        if not np.isfinite(model.infer(example)).all():
            raise CheckError(f"{path}: computes NaN or infinity from random input; export it in a higher precision")
        model.bind(example)
    return models


def _parts(inferences: np.ndarray) -> dict[str, dict[str, float]]:
    return {name: stats.spread(trace.part(inferences, name)) for name in trace.PARTS}


def _names(paths: Sequence[str]) -> list[str]:
    names = [Path(path).stem for path in paths]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{name}: two networks have this file name; rename one, results go by file name")
    return names
