"""Time by layer: a second run with the profiler on, rolled up to the modules of the PyTorch network.

Profiling makes inference slower (each layer is timed apart), so these times are for comparing layers, never latencies.
"""

import json
from collections.abc import Callable, Sequence
from statistics import mean, median

from layer_folding import files
from layer_folding.bench_results import Profile, ProfiledLayer

from .runtimes import Loaded

RUNS = 50
NOTE = "a second run with the profiler on, slower than the latency"


def measure(model: Loaded, progress: Callable[[str], None] = lambda text: None) -> Profile:
    """Run ``model`` with the profiler on."""
    progress("profiling")
    runs = model.profile(RUNS)
    progress("")
    layers = tuple(
        ProfiledLayer(name, tuple(model.modules(name)), median(times), mean(times))
        for name, times in _by_layer(runs).items()
    )
    return Profile(NOTE, len(runs), layers, roll_up(layers))


def roll_up(layers: Sequence[ProfiledLayer]) -> dict[str, float]:
    """Median ms by module; a layer that fuses several modules counts for all of them together, "conv1 + relu".

    A layer of no module (a reformat, say) goes by its own name in parentheses.
    """
    times: dict[str, float] = {}
    for layer in layers:
        name = " + ".join(layer.modules) or f"({layer.name})"
        times[name] = times.get(name, 0.0) + layer.ms
    return times


def export(path: str, profile: Profile) -> None:
    """Write a profile as trtexec --exportProfile does: the number of runs, then an object for each layer."""
    total = sum(layer.mean_ms for layer in profile.layers) or 1.0
    entries: list[dict[str, object]] = [{"count": profile.runs}]
    for layer in profile.layers:
        entries.append(
            {
                "name": layer.name,
                "timeMs": layer.mean_ms * profile.runs,
                "averageMs": layer.mean_ms,
                "medianMs": layer.ms,
                "percentage": 100 * layer.mean_ms / total,
            }
        )
    files.write_text(path, "[\n  " + "\n, ".join(map(json.dumps, entries)) + "\n]\n")


def _by_layer(runs: list[dict[str, float]]) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {}
    for run in runs:
        for layer, ms in run.items():
            times.setdefault(layer, []).append(ms)
    return times
