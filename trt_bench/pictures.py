"""Pictures of a measurement, where matplotlib is installed: latency distributions, and time by module."""

from pathlib import Path
from typing import Any

from layer_folding import files
from layer_folding.bench_results import BenchResult
from layer_folding.errors import InputError


def draw(results: dict[str, BenchResult], folder: str) -> list[str]:
    """Draw measurements (by path) into ``folder`` as PNG and SVG; the lines that name the files.

    Raises InputError without matplotlib.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise InputError(f"--pictures: cannot import matplotlib ({error}); pip install matplotlib") from error
    matplotlib.use("agg")
    written = []
    for path, result in results.items():
        stem = Path(path).stem if len({Path(p).stem for p in results}) == len(results) else Path(path).parent.name
        written += _save(_latencies(result), f"{folder}/{stem}-latency")
        if any(model.profile for model in result.models):
            written += _save(_modules(result), f"{folder}/{stem}-modules")
    return written


def _latencies(result: BenchResult) -> Any:
    """One row for each batch size: which fraction of each network's samples is below a latency."""
    from matplotlib.figure import Figure

    batches = list(dict.fromkeys(model.batch for model in result.models))
    figure = Figure(figsize=(8, 1 + 2.5 * len(batches)), layout="constrained")
    for axes, batch in zip(figure.subplots(len(batches), squeeze=False)[:, 0], batches, strict=True):
        for model in result.models:
            if model.batch == batch:
                axes.ecdf(model.samples_ms, label=f"{model.name}, median {model.latency_ms.median:.3g} ms")
        axes.set(xscale="log", xlabel="latency (ms)", ylabel="fraction below", title=f"batch {batch}")
        axes.grid(alpha=0.3, which="both")
        axes.legend(loc="lower right")
    figure.suptitle(f"{result.device.name or '?'}, {result.runtime}")
    return figure


def _modules(result: BenchResult) -> Any:
    """A bar for each module and network, in the order that the modules run."""
    from matplotlib.figure import Figure

    models = [(f"{model.name}, batch {model.batch}", model.profile.modules) for model in result.models if model.profile]
    names = list(dict.fromkeys(name for _, modules in models for name in modules))
    figure = Figure(figsize=(9, 1.5 + 0.25 * len(names) * len(models)), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / len(models)
    for index, (label, modules) in enumerate(models):
        times = [modules.get(name, 0.0) for name in names]
        places = [place + index * height for place in range(len(names))]
        axes.barh(places, times, height, label=label)
    axes.set_yticks([place + 0.4 - height / 2 for place in range(len(names))], names)
    axes.invert_yaxis()
    axes.set(xlabel="ms, with the profiler on")
    axes.legend()
    return figure


def _save(figure: Any, stem: str) -> list[str]:
    paths = [f"{stem}.png", f"{stem}.svg"]
    for path in paths:
        with files.atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=150)
    return paths
