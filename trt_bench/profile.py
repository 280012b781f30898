"""Time by layer: a second run with the profiler on, rolled up to the modules of the PyTorch network.

Profiling makes inference slower (each layer is timed apart), so these times are for comparing layers, never latencies.
"""

import json
from collections.abc import Callable
from statistics import mean, median

from trt_bench import files
from trt_bench.runtimes import Loaded

RUNS = 50
NOTE = "a second run with the profiler on, slower than the latency"


def measure(model: Loaded, progress: Callable[[str], None] = lambda text: None) -> dict:
    """The ``profile`` object of bench.json: median ms by layer, and by module in the order that they run."""
    progress("profiling")
    runs = model.profile(RUNS)
    progress("")
    layers = [
        {"name": name, "modules": model.modules(name), "ms": median(times), "mean_ms": mean(times)}
        for name, times in _by_layer(runs).items()
    ]
    return {"note": NOTE, "runs": len(runs), "layers": layers, "modules": roll_up(layers)}


def roll_up(layers: list[dict]) -> dict[str, float]:
    """Median ms by module; a layer that fuses several modules counts for all of them together, "conv1 + relu".

    A layer of no module (a reformat, say) goes by its own name in parentheses.
    """
    times: dict[str, float] = {}
    for layer in layers:
        name = " + ".join(layer["modules"]) or f"({layer['name']})"
        times[name] = times.get(name, 0.0) + layer["ms"]
    return times


def export(path: str, profile: dict) -> None:
    """Write a profile as trtexec --exportProfile does: the number of runs, then an object for each layer."""
    total = sum(layer["mean_ms"] for layer in profile["layers"]) or 1.0
    entries = [{"count": profile["runs"]}]
    for layer in profile["layers"]:
        entries.append(
            {
                "name": layer["name"],
                "timeMs": layer["mean_ms"] * profile["runs"],
                "averageMs": layer["mean_ms"],
                "medianMs": layer["ms"],
                "percentage": 100 * layer["mean_ms"] / total,
            }
        )
    files.write_text(path, "[\n  " + "\n, ".join(map(json.dumps, entries)) + "\n]\n")


def _by_layer(runs: list[dict[str, float]]) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {}
    for run in runs:
        for layer, ms in run.items():
            times.setdefault(layer, []).append(ms)
    return times
