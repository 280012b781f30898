"""The result as a table for people."""

from trt_bench import advice, device, stats
from trt_bench.errors import InputError
from trt_bench.prediction import MISS

TITLES = {"onnxruntime": "ONNX Runtime", "tensorrt": "TensorRT"}
OFF = 0.01  # of the original network's time: a smaller difference does not explain a miss
HEADER = [
    ("", "weighted", "", "", "", "median latency", "speed-up"),
    ("model", "layers", "parameters", "MACs", "accuracy", "ms [95% interval]", "[95% interval]"),
]


def table(result: dict) -> str:
    """The lines that ``bench`` and ``show`` print for the content of one bench.json."""
    comparisons = result.get("comparisons") or ([result["comparison"]] if result["comparison"] else [])
    lines = [_heading(result)]
    for batch in dict.fromkeys(model["batch"] for model in result["models"]):
        models = [model for model in result["models"] if model["batch"] == batch]
        here = [comparison for comparison in comparisons if comparison.get("batch", batch) == batch]
        speedups = {comparison["candidate"]: _speedup(comparison) for comparison in here}
        rows = [*HEADER, *(_row(model, speedups.get(model["name"], "-")) for model in models)]
        notes = [line for model in models for line in _parts(model)] + [_verdict(comparison) for comparison in here]
        lines += [_conditions(result, batch), "", *aligned(rows), *([""] if notes else []), *notes]
        lines += [line for model in models for line in _profile(model)]
        lines.append("")
    lines += _prediction(result["prediction"]) if "prediction" in result else []
    return "\n".join([*lines, *advice.warnings(result)]).rstrip("\n")


def across(results: dict[str, dict], force: bool) -> list[str]:
    """Lines that compare each network with itself in the first of ``results`` (content of bench.json by path).

    Raises InputError where they were measured in different states of the device, unless ``force``.
    """
    (first_path, first), *others = results.items()
    lines = []
    for path, other in others:
        different = device.differences(first["device"], other["device"])
        if different and not force:
            raise InputError(
                f"{path}: was not measured in the same state of the device as {first_path} ({'; '.join(different)}); "
                "measure both in one state, or give --force"
            )
        lines += [f"not comparable, {text}" for text in different]
        known = {(model["name"], model["batch"]): model["samples_ms"] for model in first["models"]}
        for model in other["models"]:
            if (model["name"], model["batch"]) in known:
                compared = stats.compare_apart(known[model["name"], model["batch"]], model["samples_ms"])
                where = f"{model['name']}, batch {model['batch']}: {path} against {first_path}"
                lines.append(f"{where}: {_speedup(compared)}, {compared['verdict']}")
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
    record, settings = result["device"], result["settings"]
    details = [record.get("name", "?")]
    if record.get("board"):
        details.append(record["board"])
    if (record.get("jetson") or {}).get("nvpmodel"):
        details.append(f"power mode {record['jetson']['nvpmodel']}")
    threads = settings.get("threads")
    if threads:
        details.append(f"{threads} thread{'s' * (threads != 1)}")
    reason = f", {result['reason']}" if result.get("reason") else ""
    title = f"{TITLES[result['runtime']]} {record.get('runtime_version', '?')}"
    return f"{title} on the {record.get('kind', '?').upper()} ({', '.join(details)}){reason}"


def _conditions(result: dict, batch: int) -> str:
    settings = result["settings"]
    line = f"batch {batch}, {settings.get('rounds', '?')} interleaved rounds"
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
        f"{milliseconds(latency['median'])} [{milliseconds(latency['ci95'][0])}, {milliseconds(latency['ci95'][1])}]",
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


def _prediction(prediction: dict) -> list[str]:
    """What the plan said beside what was measured; where they are far apart, which merges are to blame."""
    plan = prediction["plan"]
    if prediction["obstacle"]:
        return [f"prediction: {plan} is not compared: {prediction['obstacle']}"]
    miss = prediction["miss"]
    line = (
        f"prediction: {_speedup(prediction)} by {plan}, {_speedup(prediction['measured'])} measured: "
        f"predicted {abs(miss):.1%} too {'fast' if miss > 0 else 'slow'}"
    )
    return [line] if abs(miss) <= MISS else [f"warning: {line}; what was off:", "", *_merges(prediction)]


def _merges(prediction: dict) -> list[str]:
    """What each merge saves, by the table and timed again, those that differ most first."""
    rows = [("saves, of the original's time", "by the table", "timed again", "")]
    merges = sorted(prediction["merges"], key=lambda row: -abs(_now(row) - row["planned"]))
    for row in merges:
        spread = 0 if row["again"] is None else (row["ci95"][1] - row["ci95"][0]) / 2
        alike = f" and {row['count'] - 1} like it" if row["count"] > 1 else ""
        name = " .. ".join(dict.fromkeys((row["layers"][0], row["layers"][-1])))
        now = "-" if row["again"] is None else f"{_now(row):.1%} +- {spread:.1%}"
        off = "off" if abs(_now(row) - row["planned"]) > max(row["error"] + spread, OFF) else ""
        rows.append((f"{name}{alike}", f"{row['planned']:.1%} +- {row['error']:.1%}", now, off))
    saved = 1 - 1 / prediction["measured"]["speedup"]
    rest = saved - sum(map(_now, merges))
    rows.append(("what they save in the network but not alone", "", f"{rest:+.1%}", "off" if abs(rest) > OFF else ""))
    rows.append(("the whole network", f"{1 - 1 / prediction['speedup']:.1%}", f"{saved:.1%}", ""))
    lines = aligned(rows)
    if any(row["again"] is None for row in merges):
        lines.append("some merges could not be timed again: `make table` writes their segments beside the plan")
    if any(row[-1] for row in rows[1:-2]):
        lines.append("where a merge is off: measure the table again in the state that counts, and plan again")
    if abs(rest) > OFF:
        lines.append(
            "in the network but not alone: by caches and layouts, or because other work on the machine slows down long "
            "inferences more than short ones"
        )
    return [*lines, ""]


def _now(row: dict) -> float:
    return row["planned"] if row["again"] is None else row["again"]


def _parts(model: dict) -> list[str]:
    """Where the time of one inference on a GPU goes, and what it costs."""
    parts = model.get("parts_ms")
    lines = []
    if parts:
        h2d, compute, d2h, enqueue = (parts[name]["p50"] for name in ("h2d", "compute", "d2h", "enqueue"))
        lines.append(
            f"{model['name']}: {milliseconds(h2d)} ms to the GPU, {milliseconds(compute)} ms compute, "
            f"{milliseconds(d2h)} ms back; {milliseconds(enqueue)} ms to launch, "
            f"{milliseconds(model['host_ms'])} ms on the host's clock"
        )
    energy = model.get("energy")
    if energy:
        lines.append(f"{model['name']}: {energy['whole_mj']:.3g} mJ per inference ({' + '.join(energy['whole'])})")
    return lines


def _profile(model: dict) -> list[str]:
    """The modules of a profile, in the order that they run."""
    profile = model.get("profile")
    if not profile:
        return []
    total = sum(profile["modules"].values()) or 1.0
    rows = [(name, f"{milliseconds(ms)} ms", f"{ms / total:.1%}") for name, ms in profile["modules"].items()]
    return ["", f"{model['name']} by module ({profile['note']}):", *aligned(rows)]


def milliseconds(value: float) -> str:
    """Milliseconds for people: three decimals or fewer, four below 0.1."""
    return f"{value:.{4 if value < 0.1 else 3 if value < 10 else 2 if value < 100 else 1}f}"


def aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Columns of equal width, the first one flush left and the others flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
