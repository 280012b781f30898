"""Time networks against each other: files in, the content of bench.json out."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from trt_bench import evalset, metadata, stats, timer
from trt_bench.errors import CheckError, InputError
from trt_bench.results import SCHEMA


def bench(
    paths: Sequence[str],
    runtime: ModuleType,
    reason: str = "",
    batch: int = 1,
    seconds: float = 3.0,
    threads: int = 1,
    data: str | None = None,
    seed: int = 0,
    progress: Callable[[str], None] = lambda text: None,
) -> dict:
    """Load, check and time the ONNX files ``paths`` interleaved; return the content of bench.json.

    The first is the baseline, each other one is compared with it. ``batch`` images per inference, at least ``seconds``
    of timing for each network, ``data`` an eval.npz to measure accuracy on. Before any timing, raises InputError for
    what cannot be used and CheckError for a network that computes infinities or NaN.
    """
    names = _names(paths)
    images = evalset.load(data) if data else None
    networks = [metadata.read(path) for path in paths]
    models = []
    for path in paths:
        progress(f"loading {path}")
        models.append(runtime.load(path, batch, threads))
        if models[-1].input_shape != models[0].input_shape:
            raise InputError(
                f"{path}: takes input {list(models[-1].input_shape)}, but {paths[0]} takes "
                f"{list(models[0].input_shape)}; give networks of the same task"
            )
    example = np.random.default_rng(seed).standard_normal(models[0].input_shape, dtype=np.float32)
    for model, path in zip(models, paths, strict=True):
        if not np.isfinite(model.infer(example)).all():
            raise CheckError(f"{path}: computes NaN or infinity from random input; export it in a higher precision")
    scores = [evalset.accuracy(m, images, p, progress) if images else None for m, p in zip(models, paths, strict=True)]
    for model in models:
        model.bind(example)
    timing = timer.measure(
        [model.repeat for model in models],
        seconds,
        progress=lambda text: progress(text and f"{', '.join(names)}: {text}"),
    )
    comparisons = [
        {"baseline": names[0], "candidate": name, **stats.compare(timing.samples_ms[0], samples, seed)}
        for name, samples in zip(names[1:], timing.samples_ms[1:], strict=True)
    ]
    return {
        "schema": SCHEMA,
        "runtime": runtime.__name__.rpartition(".")[2],
        "reason": reason,
        "device": runtime.device(),
        "settings": {
            "batch": batch,
            "input_shape": list(models[0].input_shape),
            "input": "standard normal float32, the same for all networks",
            "seed": seed,
            "threads": threads,
            "data": data,
            "images": len(images.images) if images else None,
            "bootstrap_resamples": stats.RESAMPLES,
            **timing.settings,
            **models[0].settings,
        },
        "models": [
            {
                "name": name,
                "path": str(path),
                "precision": network.get("precision", "unknown"),
                "batch": batch,
                "latency_ms": stats.summary(samples, seed),
                "samples_ms": samples,
                "compute_ms": stats.summary(compute, seed) if compute else None,
                "accuracy": score,
                "network": network,
            }
            for name, path, network, samples, compute, score in zip(
                names, paths, networks, timing.samples_ms, timing.compute_ms, scores, strict=True
            )
        ],
        "comparison": comparisons[-1] if comparisons else None,
        "comparisons": comparisons,
    }


def _names(paths: Sequence[str]) -> list[str]:
    names = [Path(path).stem for path in paths]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{name}: two networks have this file name; rename one, results go by file name")
    return names
