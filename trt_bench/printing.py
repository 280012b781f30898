"""The result as a table for people."""

from layer_folding import advice, bench_settings, stats
from layer_folding.bench_results import TITLES, BenchResult, EngineRecord, ModelRecord, ParsedNetwork
from layer_folding.errors import InputError
from layer_folding.stats import Comparison
from layer_folding.text import aligned, human, milliseconds

from . import audit, device
from .printed_prediction import prediction_lines

HEADER = [
    ("", "weighted", "", "", "", "median latency", "speed-up"),
    ("model", "layers", "parameters", "MACs", "accuracy", "ms [95% interval]", "[95% interval]"),
]


def table(result: BenchResult) -> str:
    """The lines that ``bench`` and ``show`` print for one measurement."""
    lines = [_heading(result)]
    for batch in dict.fromkeys(model.batch for model in result.models):
        lines += [*_of_batch(result, batch), ""]
    if result.prediction is not None:
        lines += prediction_lines(result.prediction)
    return "\n".join([*lines, *advice.warnings(result)]).rstrip("\n")


def layers(engine: EngineRecord) -> str:
    """What the layers of an engine run in: all of them, and those with weights."""
    every = ", ".join(f"{count} {name}" for name, count in engine.layers_by_precision.items())
    weighted = audit.in_words(engine.weighted_layers, engine.precision) if engine.weighted_layers else ""
    return f"layers: {every}" + (f"; {weighted}" if weighted else "")


def engine_line(path: str, capability: str | None, built: EngineRecord) -> str:
    """What ``build`` prints of the engine of the ONNX file ``path``; ``capability`` is that of a GPU elsewhere."""
    target = "" if capability is None else f"sm{capability.replace('.', '')}: "
    state = "in the cache" if built.from_cache else f"built in {built.build_s:.1f} s"
    size = f"{built.engine_bytes / 1e6:.1f} MB"
    lines = [f"{path}: {target}{built.engine}: {state}; {size}; {layers(built)}"]
    if built.notes.parsed:
        lines.append(f"  as parsed: {parsed(built.notes.parsed, built.precision)}")
    return "\n".join([*lines, *advice.of_engine(path, built)])


def parsed(network: ParsedNetwork, precision: str) -> str:
    """What TensorRT's parser made of a file, such as "8 of 8 convolutions in int8; 17 quantised values, all used"."""
    of_weights = audit.in_words(network.weighted_layers, precision) if network.weighted_layers else "no weights"
    alone = f"{len(network.alone)} of them for nothing" if network.alone else "each for a layer with weights or a sum"
    return of_weights + (f"; {network.pairs} values quantised, {alone}" if network.pairs else "")


def across(results: dict[str, BenchResult], *, force: bool) -> list[str]:
    """Lines that compare each network with itself in the first of ``results`` (by path).

    Raises InputError where they were timed otherwise or in different states of the device, unless ``force``.
    """
    (first_path, first), *others = results.items()
    known = {(model.name, model.batch): model.samples_ms for model in first.models}
    lines = []
    for path, other in others:
        different = [
            *device.differences(first.device, other.device),
            *bench_settings.differences(first.settings, other.settings),
        ]
        if different and not force:
            raise InputError(
                f"{path}: was not measured in the same state of the device as {first_path}, and in the same way "
                f"({'; '.join(different)}); measure both alike, or give --force"
            )
        lines += [f"not comparable, {text}" for text in different]
        for model in other.models:
            if (model.name, model.batch) in known:
                compared = stats.compare_apart(known[model.name, model.batch], model.samples_ms)
                where = f"{model.name}, batch {model.batch}: {path} against {first_path}"
                lines.append(f"{where}: {compared}, {compared.verdict}")
    return lines


def _heading(result: BenchResult) -> str:
    record, threads = result.device, result.settings.threads
    details = [record.name or "?"]
    if record.board and record.board != record.name:
        details.append(record.board)
    if record.jetson and record.jetson.nvpmodel:
        details.append(f"power mode {record.jetson.nvpmodel}")
    if threads:
        details.append(f"{threads} thread{'s' * (threads != 1)}")
    reason = f", {result.reason}" if result.reason else ""
    title = f"{TITLES[result.runtime]} {record.runtime_version or '?'}"
    return f"{title} on the {(record.kind or '?').upper()} ({', '.join(details)}){reason}"


def _of_batch(result: BenchResult, batch: int) -> list[str]:
    """The networks at one batch size: conditions, table, where their time goes, verdicts, profiles."""
    models = [model for model in result.models if model.batch == batch]
    here = [comparison for comparison in result.comparisons if comparison.batch == batch]
    speedups = {comparison.candidate: str(comparison) for comparison in here}
    rows = [*HEADER, *(_row(model, speedups.get(model.name, "-")) for model in models)]
    notes = [line for model in models for line in _costs(model)] + [_verdict(comparison) for comparison in here]
    profiles = [line for model in models for line in _profile(model)]
    return [_conditions(result, batch), "", *aligned(rows), *([""] if notes else []), *notes, *profiles]


def _conditions(result: BenchResult, batch: int) -> str:
    flying = f", {result.settings.in_flight} inferences in flight" if (result.settings.in_flight or 1) > 1 else ""
    line = f"batch {batch}, {result.settings.rounds or '?'} interleaved rounds{flying}"
    if any(model.accuracy is not None for model in result.models):
        return f"{line}; accuracy measured here on {result.settings.images or '?'} images"
    if any(model.network.accuracy is not None for model in result.models):
        return f"{line}; accuracy as recorded at export"
    return line


def _row(model: ModelRecord, speedup: str) -> tuple[str, ...]:
    accuracy, latency = model.known_accuracy, model.latency_ms
    return (
        model.name,
        human(model.network.depth),
        human(model.network.parameters),
        human(model.network.macs),
        "-" if accuracy is None else f"{100 * accuracy:.2f}%",
        f"{milliseconds(latency.median)} [{milliseconds(latency.ci95[0])}, {milliseconds(latency.ci95[1])}]",
        speedup,
    )


def _verdict(comparison: Comparison) -> str:
    baseline, candidate, verdict = comparison.baseline, comparison.candidate, comparison.verdict
    if verdict == "no significant difference":
        return f"verdict: {verdict} between {candidate} and {baseline}: {comparison}"
    return f"verdict: {candidate} is {verdict} than {baseline}: {comparison}"


def _costs(model: ModelRecord) -> list[str]:
    """Where the time of one inference on a GPU goes, its energy, and what its layers run in."""
    lines = []
    if model.parts_ms:
        parts = model.parts_ms
        host = "" if model.host_ms is None else f", {milliseconds(model.host_ms)} ms on the host's clock"
        lines.append(
            f"{model.name}: {milliseconds(parts.h2d.p50)} ms to the GPU, {milliseconds(parts.compute.p50)} ms compute, "
            f"{milliseconds(parts.d2h.p50)} ms back; {milliseconds(parts.enqueue.p50)} ms to launch{host}"
        )
    if model.energy:
        rails = " + ".join(model.energy.whole)
        lines.append(f"{model.name}: {model.energy.whole_mj:.3g} mJ per inference ({rails})")
    if model.engine:
        lines.append(f"{model.name}: {layers(model.engine)}")
    return lines


def _profile(model: ModelRecord) -> list[str]:
    """The modules of a profile, in the order that they run."""
    if not model.profile:
        return []
    total = sum(model.profile.modules.values()) or 1.0
    rows = [(name, f"{milliseconds(ms)} ms", f"{ms / total:.1%}") for name, ms in model.profile.modules.items()]
    return ["", f"{model.name} by module ({model.profile.note}):", *aligned(rows)]
