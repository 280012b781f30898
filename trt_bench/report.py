"""The result as a table for people."""

from trt_bench import stats

TITLES = {"onnxruntime": "ONNX Runtime", "tensorrt": "TensorRT"}
UNSTABLE = 0.10
DRIFTS = 0.05
HEADER = [
    ("", "weighted", "", "", "", "median latency", "speed-up"),
    ("model", "layers", "parameters", "MACs", "accuracy", "ms [95% interval]", "[95% interval]"),
]


def table(result: dict) -> str:
    """The lines that ``bench`` and ``show`` print for the content of one bench.json."""
    comparisons = result.get("comparisons") or ([result["comparison"]] if result["comparison"] else [])
    speedups = {comparison["candidate"]: _speedup(comparison) for comparison in comparisons}
    rows = [*HEADER, *(_row(model, speedups.get(model["name"], "-")) for model in result["models"])]
    notes = [_verdict(comparison) for comparison in comparisons]
    notes += [warning for model in result["models"] for warning in instability(model, result["runtime"])]
    return "\n".join([_heading(result), _conditions(result), "", *_aligned(rows), *([""] if notes else []), *notes])


def instability(model: dict, runtime: str) -> list[str]:
    """Warnings about the samples of one model, each with its remedy."""
    samples = model["samples_ms"]
    if runtime == "tensorrt":
        remedy = "fix the clocks (a Jetson: jetson_clocks; a GPU: nvidia-smi -lgc)"
    else:
        remedy = "close other programs, fix the CPU's clock or let it cool"
    lines = []
    varies = stats.variation(samples)
    if varies > UNSTABLE:
        lines.append(
            f"warning: {model['name']}: samples vary by {varies:.0%}; {remedy}, or measure with more --seconds"
        )
    drifts = stats.drift(samples)
    if abs(drifts) > DRIFTS:
        direction = "slower" if drifts > 0 else "faster"
        lines.append(f"warning: {model['name']}: became {abs(drifts):.0%} {direction} while it was timed; {remedy}")
    return lines


def human(count: object) -> str:
    """A count for people: 950, 12.3 k, 1.23 M, 4.56 G; "-" for what is no number."""
    if not isinstance(count, (int, float)):
        return "-"
    value = float(count)
    for unit in ("", " k", " M", " G"):
        if value < 999.5 or unit == " G":
            break
        value /= 1000
    digits = 0 if not unit or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f}{unit}"


def _heading(result: dict) -> str:
    device, settings = result["device"], result["settings"]
    details = [device.get("name", "?")]
    if device.get("board"):
        details.append(device["board"])
    threads = settings.get("threads")
    if threads:
        details.append(f"{threads} thread{'s' * (threads != 1)}")
    reason = f", {result['reason']}" if result.get("reason") else ""
    title = f"{TITLES[result['runtime']]} {device.get('runtime_version', '?')}"
    return f"{title} on the {device.get('kind', '?').upper()} ({', '.join(details)}){reason}"


def _conditions(result: dict) -> str:
    settings = result["settings"]
    line = f"batch {settings.get('batch', '?')}, {settings.get('rounds', '?')} interleaved rounds"
    if any(model["accuracy"] is not None for model in result["models"]):
        return f"{line}; accuracy measured here on {settings.get('images', '?')} images"
    if any("accuracy" in model.get("network", {}) for model in result["models"]):
        return f"{line}; accuracy as recorded at export"
    return line


def _row(model: dict, speedup: str) -> tuple[str, ...]:
    network = model.get("network", {})
    accuracy = model["accuracy"] if model["accuracy"] is not None else network.get("accuracy")
    latency = model["latency_ms"]
    return (
        model["name"],
        human(network.get("depth")),
        human(network.get("parameters")),
        human(network.get("macs")),
        f"{100 * accuracy:.2f}%" if isinstance(accuracy, (int, float)) else "-",
        f"{_ms(latency['median'])} [{_ms(latency['ci95'][0])}, {_ms(latency['ci95'][1])}]",
        speedup,
    )


def _speedup(comparison: dict) -> str:
    low, high = comparison["ci95"]
    return f"{comparison['speedup']:.3f}x [{low:.3f}, {high:.3f}]"


def _verdict(comparison: dict) -> str:
    baseline, candidate, verdict = comparison["baseline"], comparison["candidate"], comparison["verdict"]
    if verdict == "no significant difference":
        return f"verdict: {verdict} between {candidate} and {baseline}: {_speedup(comparison)}"
    return f"verdict: {candidate} is {verdict} than {baseline}: {_speedup(comparison)}"


def _ms(value: float) -> str:
    return f"{value:.{4 if value < 0.1 else 3 if value < 10 else 2 if value < 100 else 1}f}"


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Columns of equal width, the first one flush left and the others flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
