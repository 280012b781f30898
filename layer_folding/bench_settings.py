"""How networks were run and timed, as bench.json records it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RunSettings:
    """How a runtime ran the networks. None: does not concern this runtime, or was left at its default."""

    timing: str | None = None  # what one inference is, and what trtexec calls it
    threads: int | None = None
    provider: str | None = None
    cuda_graph: bool | None = None
    cuda_graph_obstacle: str | None = None  # why there is no CUDA graph though one was asked for
    transfers: bool | None = None
    in_flight: int | None = None  # inferences at a time
    pinned_host_memory: bool | None = None
    spin_wait: bool | None = None
    tf32: str | None = None
    workspace_mib: int | None = None
    optimization_level: int | None = None
    dla: int | None = None
    kernel_specialization: str | None = None  # TensorRT-RTX: when kernels are compiled for a shape
    runtime_cache: bool | None = None  # TensorRT-RTX: compiled kernels are kept between runs


@dataclass(frozen=True)
class BenchSettings(RunSettings):
    """The settings of a whole measurement: input, timing (as `trt_bench.timer.Conditions`), and the runtime's."""

    batches: tuple[int, ...] | None = None
    input: str | None = None
    seed: int | None = None
    data: str | None = None  # an eval.npz that accuracy was measured on
    images: int | None = None  # in it
    bootstrap_resamples: int | None = None
    loads: int | None = None  # how often each network was loaded while it was timed
    warm_up_s: float | None = None
    seconds: float | None = None
    block_ms: float | None = None
    untimed_inferences_per_block: int | None = None
    iterations_per_block: tuple[int, ...] | None = None
    rounds: int | None = None
    interleaving: str | None = None
    sample: str | None = None


_TIMED_ALIKE = {"in_flight": "inferences in flight", "transfers": "transfers", "cuda_graph": "CUDA graph"}


def differences(first: RunSettings, second: RunSettings) -> list[str]:
    """In what two measurements were timed otherwise, so that their latencies are not comparable, in words."""
    return [
        f"{words}: {vars(first)[name]} and {vars(second)[name]}"
        for name, words in _TIMED_ALIKE.items()
        if None not in (vars(first)[name], vars(second)[name]) and vars(first)[name] != vars(second)[name]
    ]
