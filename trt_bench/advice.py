"""Warnings about a measurement that name the fix."""

from trt_bench import stats

UNSTABLE = 0.025  # coefficient of variation
DRIFTS = 0.05
ENQUEUE_BOUND = 0.8  # of the computation's time: trtexec's threshold
CLOCK_MOVES = 0.02


def warnings(result: dict) -> list[str]:
    """All that is suspect in the content of one bench.json, a line each."""
    lines = [line for model in result["models"] for line in instability(model, result["device"].get("kind"))]
    lines += [line for model in result["models"] for line in enqueue_bound(model, result["settings"])]
    return lines + throttling(result["device"])


def instability(model: dict, kind: str | None) -> list[str]:
    """Samples of one model that scatter or drift; ``kind`` is cpu or gpu."""
    samples = model["samples_ms"]
    if kind == "gpu":
        remedy = "fix the clocks (a Jetson: sudo jetson_clocks; a GPU: nvidia-smi -lgc)"
    else:
        remedy = "close other programs, fix the CPU's clock or let it cool"
    lines = []
    varies = stats.variation(samples)
    if varies > UNSTABLE:
        lines.append(
            f"warning: {model['name']}: samples vary by {varies:.1%}; {remedy}, or measure with more --seconds"
        )
    drifts = stats.drift(samples)
    if abs(drifts) > DRIFTS:
        direction = "slower" if drifts > 0 else "faster"
        lines.append(f"warning: {model['name']}: became {abs(drifts):.0%} {direction} while it was timed; {remedy}")
    return lines


def enqueue_bound(model: dict, settings: dict) -> list[str]:
    """A GPU that waits for the host to launch its kernels."""
    parts = model.get("parts_ms")
    if not parts or parts["enqueue"]["p50"] <= ENQUEUE_BOUND * parts["compute"]["p50"]:
        return []
    remedy = "give a larger --batch" if settings.get("cuda_graph") else "leave out --no-cuda-graph"
    return [
        f"warning: {model['name']}: launching takes {parts['enqueue']['p50']:.3f} ms of "
        f"{parts['compute']['p50']:.3f} ms, so the GPU may wait for the host; {remedy}"
    ]


def throttling(device: dict) -> list[str]:
    """Clocks that moved or were held down while the networks were timed."""
    seen = device.get("while_timed")
    if not seen:
        return []
    lines = []
    if seen["throttled"]:
        lines.append(
            f"warning: the GPU was throttled ({', '.join(seen['throttled'])}); cool it, or choose a lower power mode"
        )
    low, high = seen["clock_mhz"] or (1, 1)
    if low < (1 - CLOCK_MOVES) * high:
        remedy = "sudo jetson_clocks" if device.get("jetson") else "nvidia-smi -lgc"
        lines.append(f"warning: the GPU's clock moved between {low:.0f} and {high:.0f} MHz; fix it with {remedy}")
    return lines
