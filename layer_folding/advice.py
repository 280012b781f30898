"""Warnings about a measurement that name the fix."""

from . import stats
from .bench_results import BenchResult, EngineRecord, ModelRecord
from .bench_settings import BenchSettings
from .device_records import DeviceRecord

UNSTABLE = 0.025  # coefficient of variation
DRIFTS = 0.05
ENQUEUE_BOUND = 0.8  # of the computation's time: trtexec's threshold
CLOCK_MOVES = 0.02


def warnings(result: BenchResult) -> list[str]:
    """All that is suspect in a measurement, a line each."""
    lines = [line for model in result.models for line in instability(model, result.device.kind)]
    lines += [line for model in result.models for line in enqueue_bound(model, result.settings)]
    lines += [line for model in result.models if model.engine for line in of_engine(model.name, model.engine)]
    return lines + without_graph(result.settings) + throttling(result.device)


def without_graph(settings: BenchSettings) -> list[str]:
    """Networks that were launched kernel by kernel though nobody asked for it."""
    if settings.cuda_graph_obstacle is None:
        return []
    return [f"warning: all networks ran without a CUDA graph: {settings.cuda_graph_obstacle}"]


def instability(model: ModelRecord, kind: str | None) -> list[str]:
    """Samples of one model that scatter or drift; ``kind`` is cpu or gpu."""
    if kind == "gpu":
        remedy = "fix the clocks (a Jetson: sudo jetson_clocks; a GPU: nvidia-smi -lgc)"
    else:
        remedy = "close other programs, fix the CPU's clock or let it cool"
    lines = []
    varies = stats.variation(model.samples_ms)
    if varies > UNSTABLE:
        lines.append(f"warning: {model.name}: samples vary by {varies:.1%}; {remedy}, or measure with more --seconds")
    drifts = stats.drift(model.samples_ms)
    if abs(drifts) > DRIFTS:
        direction = "slower" if drifts > 0 else "faster"
        lines.append(f"warning: {model.name}: became {abs(drifts):.0%} {direction} while it was timed; {remedy}")
    return lines


def enqueue_bound(model: ModelRecord, settings: BenchSettings) -> list[str]:
    """A GPU that waits for the host to launch its kernels."""
    parts = model.parts_ms
    if parts is None or parts.enqueue.p50 <= ENQUEUE_BOUND * parts.compute.p50:
        return []
    chosen = not settings.cuda_graph and settings.cuda_graph_obstacle is None
    remedy = "leave out --no-cuda-graph" if chosen else "give a larger --batch"
    return [
        f"warning: {model.name}: launching takes {parts.enqueue.p50:.3f} ms of "
        f"{parts.compute.p50:.3f} ms, so the GPU may wait for the host; {remedy}"
    ]


def of_engine(name: str, engine: EngineRecord) -> list[str]:
    """What is suspect in the engine of the network ``name``."""
    return [*lost_precision(name, engine), *added_layers(name, engine), *of_tensorrt(name, engine)]


def lost_precision(name: str, engine: EngineRecord) -> list[str]:
    """Layers with weights that TensorRT runs in another precision than the file has them in, and pairs of
    QuantizeLinear and DequantizeLinear that serve no layer.
    """
    lines = [
        f"warning: {name}: {layers.as_asked} of {layers.all} {layers.kind}s run in {engine.precision}, and the "
        f"file has {layers.wanted} in it; another precision may be faster on this device"
        for layers in engine.weighted_layers
        if layers.as_asked < min(layers.wanted, layers.all)  # TensorRT fuses some into kernels of another kind
    ]
    alone = engine.notes.parsed.alone if engine.notes.parsed else ()
    if alone:
        lines.append(
            f"warning: {name}: no layer with weights and no sum reads what {alone[0]} dequantises"
            + (f", and {len(alone) - 1} more" if len(alone) > 1 else "")
            + "; it costs time for nothing"
        )
    return lines


def added_layers(name: str, engine: EngineRecord) -> list[str]:
    """More convolutions in the engine than the file has: what folding saves would be lost again."""
    parsed = engine.notes.parsed.weighted_layers if engine.notes.parsed else ()
    of_file = {layers.kind: layers.all for layers in parsed}
    return [
        f"warning: {name}: TensorRT runs {layers.all} {layers.kind}s, and the file has {of_file[layers.kind]}; "
        "profile the layers to see which are split"
        for layers in engine.weighted_layers
        if layers.all > of_file.get(layers.kind, layers.all)
    ]


def of_tensorrt(name: str, engine: EngineRecord) -> list[str]:
    """What TensorRT warned of while it built the engine, and layers that the DLA leaves to the GPU."""
    notes = engine.notes
    lines = [f"warning: {name}: TensorRT: {text}" for text in notes.warnings]
    if notes.dla_layers and notes.dla_layers[0] < notes.dla_layers[1]:
        able, count = notes.dla_layers
        lines.append(f"warning: {name}: the DLA can take {able} of {count} layers; the GPU runs the others")
    return lines


def throttling(device: DeviceRecord) -> list[str]:
    """Clocks that moved or were held down while the networks were timed."""
    seen = device.while_timed
    if seen is None:
        return []
    lines = []
    if seen.throttled:
        lines.append(
            f"warning: the GPU was throttled ({', '.join(seen.throttled)}); cool it, or choose a lower power mode"
        )
    low, high = seen.clock_mhz or (1, 1)
    if low < (1 - CLOCK_MOVES) * high:
        remedy = "sudo jetson_clocks" if device.jetson else "nvidia-smi -lgc"
        lines.append(f"warning: the GPU's clock moved between {low:.0f} and {high:.0f} MHz; fix it with {remedy}")
    return lines
