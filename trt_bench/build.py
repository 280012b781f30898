"""Build a TensorRT engine from an ONNX file: one code path for TensorRT 8.6, 10 and 11.

Where the version has it, the network is strongly typed: the graph decides the precision of each layer. Before (8.6),
and for a DLA up to 10, builder flags allow the precision that the graph was exported in. Versions number their enums
differently and drop members, so every flag is looked up by name, and one that is missing is an error, never FP32.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from trt_bench import binding
from trt_bench.errors import InputError
from trt_bench.runtimes import check_input

MIB = 1 << 20


@dataclass(frozen=True)
class BuildOptions:
    """What decides, together with the ONNX file and the machine, which engine comes out."""

    batches: tuple[int, ...] = (1,)  # each gets an optimisation profile of its own, tuned for exactly that batch size
    precision: str = "fp32"  # what the graph was exported in
    workspace_mib: int | None = None  # limit of scratch memory; None: all of the GPU's
    level: int | None = None  # builder optimisation level 0 to 5; None: TensorRT's default, 3
    dla: int | None = None  # run on this DLA core, on the GPU what it cannot do; None: on the GPU


def key(onnx: bytes, options: BuildOptions, machine: dict[str, str]) -> str:
    """The name of an engine in the cache: another network, option, TensorRT, GPU or driver gives another name."""
    parts = [hashlib.sha256(onnx).hexdigest(), repr(sorted(asdict(options).items())), repr(sorted(machine.items()))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def build(
    path: str | Path,
    onnx: bytes,
    options: BuildOptions,
    timing_cache: bytes = b"",
    progress: Callable[[str], None] = lambda text: None,
) -> tuple[bytes, bytes]:
    """Build the engine of the ONNX file ``path`` with the content ``onnx``: (plan, timing cache to use next time).

    Raises InputError with TensorRT's message for what it cannot parse or build, and for options that it lacks.
    """
    import tensorrt as trt

    builder = binding.create(trt.Builder)
    network = builder.create_network(_creation_flags(options))
    parser = trt.OnnxParser(network, binding.log())
    if not parser.parse(onnx, str(path)):
        reason = parser.get_error(0).desc() if parser.num_errors else binding.log().last
        raise InputError(
            f"{path}: not an ONNX network that TensorRT {binding.version()} parses ({reason}); export it again"
        )
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # or the inspector tells no types
    for flag in _builder_flags(path, options):
        config.set_flag(flag)
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib * MIB)
    if options.level is not None:
        config.builder_optimization_level = options.level
    if options.dla is not None:
        _use_dla(builder, config, options.dla)
    for profile in _profiles(path, builder, network, options.batches):
        config.add_optimization_profile(profile)
    cache = config.create_timing_cache(timing_cache)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):  # of another GPU or TensorRT
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    monitor = binding.progress_monitor(lambda text: progress(f"building {path}: {text}"))
    if monitor is not None:
        config.progress_monitor = monitor
    progress(f"building {path}")
    plan = builder.build_serialized_network(network, config)
    progress("")
    if plan is None:
        raise InputError(
            f"{path}: TensorRT cannot build an engine of it ({binding.log().last}); free GPU memory, "
            "give a larger --workspace, or export it again"
        )
    return bytes(plan), bytes(cache.serialize())


def strongly_typed(options: BuildOptions) -> bool:
    """Whether this TensorRT takes precision from the graph; up to version 10 a DLA needs builder flags instead."""
    import tensorrt as trt

    has_flags = hasattr(trt.BuilderFlag, "FP16")
    return hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED") and not (options.dla is not None and has_flags)


def _creation_flags(options: BuildOptions) -> int:
    import tensorrt as trt

    kinds = trt.NetworkDefinitionCreationFlag
    flag = kinds.STRONGLY_TYPED if strongly_typed(options) else kinds.EXPLICIT_BATCH
    return 1 << int(flag)


def _builder_flags(path: str | Path, options: BuildOptions) -> Iterator[object]:
    """The flags for the precision, unless the graph decides, and for what a DLA cannot do."""
    import tensorrt as trt

    wanted = []
    if not strongly_typed(options) and options.precision != "fp32":
        wanted.append(options.precision.upper())
    if options.dla is not None:
        wanted.append("GPU_FALLBACK")
    for name in wanted:
        flag = getattr(trt.BuilderFlag, name, None)
        if flag is None:
            raise InputError(f"{path}: TensorRT {binding.version()} cannot build {name.lower()}; export it as fp16")
        yield flag


def _use_dla(builder, config, core: int) -> None:
    import tensorrt as trt

    if core >= builder.num_DLA_cores:
        raise InputError(
            f"--dla {core}: this device and TensorRT {binding.version()} have {builder.num_DLA_cores} DLA cores; "
            "leave it out to run on the GPU"
        )
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core


def _profiles(path: str | Path, builder, network, batches: tuple[int, ...]) -> Iterator[object]:
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    dtype = np.dtype(binding.numpy_type(path, inputs[0].dtype)).name if inputs else "absent"
    for batch in batches:
        shape = check_input(path, [list(tensor.shape) for tensor in inputs], dtype, batch)
        profile = builder.create_optimization_profile()
        profile.set_shape(inputs[0].name, shape, shape, shape)
        yield profile
