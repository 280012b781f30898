"""Build an engine from an ONNX file: one code path for TensorRT 8.6, 10 and 11, and TensorRT-RTX.

Where the version has it, the network is strongly typed: the graph decides the precision of each layer. Before (8.6),
and for a DLA up to 10, builder flags allow the precision that the graph was exported in. Versions number their enums
differently and drop members, so every flag is looked up by name, and one that is missing is an error, never FP32.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from layer_folding.bench_results import BuildNotes
from layer_folding.errors import InputError

from . import audit, definition, engine_layers, interruption, onnx_nodes
from .binding import Binding, one_line, progress_monitor
from .runtimes import check_input

MIB = 1 << 20
RECIPE = 2  # goes up where the same options give another engine than before


@dataclass(frozen=True)
class BuildOptions:
    """What decides, together with the ONNX file and the machine, which engine comes out."""

    batches: tuple[int, ...] = (1,)  # each gets an optimisation profile of its own, tuned for exactly that batch size
    precision: str = "fp32"  # what the graph was exported in
    workspace_mib: int | None = None  # limit of scratch memory; None: all of the GPU's
    level: int | None = None  # builder optimisation level 0 to 5; None: TensorRT's default, 3
    dla: int | None = None  # run on this DLA core, on the GPU what it cannot do; None: on the GPU
    capability: str | None = None  # TensorRT-RTX: build for GPUs of this compute capability, such as 8.6


@dataclass(frozen=True)
class Machine:
    """What an engine is built with and for; None where it makes no difference, or where the system does not tell."""

    builder: str  # product and version
    compute_capability: str
    gpu: str | None = None
    driver: str | None = None
    cuda_driver: str | None = None
    board: str | None = None  # every Jetson Orin has a GPU of the same name
    power_mode: str | None = None  # in which the kernels were chosen by their time


def key(onnx: bytes, options: BuildOptions, machine: Machine) -> str:
    """The name of an engine in the cache: another network, option, TensorRT, GPU or driver gives another name."""
    parts = [str(RECIPE), hashlib.sha256(onnx).hexdigest(), repr(options), repr(machine)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Built:
    """A serialised engine, the timing cache to use next time, and what TensorRT told on the way.

    ``layers`` are those of the engine where the build log lists them, as that of TensorRT-RTX does; else empty.
    """

    plan: bytes
    timing_cache: bytes
    notes: BuildNotes
    layers: tuple[engine_layers.Layer, ...] = ()


def build(
    binding: Binding,
    path: str | Path,
    onnx: bytes,
    options: BuildOptions,
    timing_cache: bytes = b"",
    progress: Callable[[str], None] = lambda text: None,
) -> Built:
    """Build the engine of the ONNX file ``path`` with the content ``onnx``.

    Raises InputError with TensorRT's message for what it cannot parse or build, and for options that it lacks, and
    CheckError where no layer with weights has the precision of ``options``.
    """
    with interruption.deferred(progress) as interrupted:
        return _build(binding, path, onnx, options, timing_cache, progress, interrupted)


def _build(
    binding: Binding,
    path: str | Path,
    onnx: bytes,
    options: BuildOptions,
    timing_cache: bytes,
    progress: Callable[[str], None],
    interrupted: Callable[[], bool],
) -> Built:
    trt, log = binding.trt, binding.log
    log.warnings.clear()
    log.layers = ""
    builder = binding.create(trt.Builder)
    network = builder.create_network(_creation_flags(trt, options))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(onnx, str(path)):
        reason = _parser_error(parser.get_error(0)) if parser.num_errors else log.last
        raise InputError(
            f"{path}: not an ONNX network that {binding.title} {binding.version} parses ({reason}); "
            "take that operator out of the network, or export it again"
        )
    wanted = onnx_nodes.weighted(onnx_nodes.parse(onnx), options.precision)
    parsed = definition.parsed(network, audit.arithmetic(options.precision), wanted)
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # or the inspector tells no types
    for flag in _builder_flags(binding, path, options):
        config.set_flag(flag)
    audit.check_parsed(path, options.precision, parsed)
    if options.capability is not None:
        _target(binding, config, options.capability)
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib * MIB)
    if options.level is not None:
        config.builder_optimization_level = options.level
    _share_profiles(trt, config)
    if options.dla is not None:
        _use_dla(binding, path, builder, config, options.dla, options.precision)
        if _dla_layers(network, config)[0] == 0:
            raise InputError(
                f"--dla {options.dla}: the DLA can take no layer of {path}; leave it out to run on the GPU"
            )
    for profile in _profiles(binding, path, builder, network, options.batches):
        if config.add_optimization_profile(profile) < 0:
            raise InputError(f"{path}: {binding.title} refuses its batch size ({log.last}); give another --batch")
    cache = None if binding.builds_without_gpu else _timing_cache(config, timing_cache)
    progress(f"building {path}")
    monitor = progress_monitor(trt, lambda text: progress(f"building {path}: {text}"), interrupted)
    if monitor is not None:
        config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    progress("")
    if plan is None:
        raise InputError(f"{path}: {binding.title} cannot build an engine of it ({log.last}); {_remedy(options)}")
    notes = BuildNotes(tuple(log.warnings), None if options.dla is None else _dla_layers(network, config), parsed)
    timings = b"" if cache is None else bytes(cache.serialize())
    return Built(bytes(plan), timings, notes, tuple(engine_layers.of_build_log(log.layers)))


def capabilities(trt: ModuleType) -> list[str]:
    """The compute capabilities that a TensorRT-RTX builds for, such as 8.6."""
    names = [name[2:] for name in trt.ComputeCapability.__members__ if name.startswith("SM")]
    return [f"{name[:-1]}.{name[-1]}" for name in names]


def _target(binding: Binding, config: Any, capability: str) -> None:
    """Build for GPUs of ``capability``. Raises InputError where there are none such."""
    trt = binding.trt
    if capability not in (known := capabilities(trt)):
        raise InputError(
            f"--for sm{capability.replace('.', '')}: {binding.title} {binding.version} builds for the compute "
            f"capabilities {', '.join(known)}; for other GPUs, such as a Jetson's, build with TensorRT on the machine"
        )
    config.num_compute_capabilities = 1
    if not config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{capability.replace('.', '')}"), 0):
        raise InputError(f"--for {capability}: {binding.title} refuses it ({binding.log.last}); name another GPU")


def _timing_cache(config: Any, content: bytes) -> Any:
    """The cache of kernel times that a build reads and adds to. TensorRT-RTX times no kernels."""
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):  # of another GPU or TensorRT
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _remedy(options: BuildOptions) -> str:
    if options.capability is None:
        return "free GPU memory, give a larger --workspace, or export it again"
    return "export it in another precision, or name another GPU"


def _parser_error(error: Any) -> str:
    """Such as "Conv block.0.conv/Conv: UNSUPPORTED_NODE: only 2D and 3D"; a description alone may say "(false)"."""
    code = getattr(error.code(), "name", str(error.code()))
    where = " ".join(str(getattr(error, name)()) for name in ("node_operator", "node_name") if hasattr(error, name))
    parts = [part.strip() for part in (where, code, one_line(error.desc() or "")) if part.strip()]
    return ": ".join(parts)


def _dla_layers(network: Any, config: Any) -> tuple[int, int]:
    """How many layers the DLA can take, and all."""
    count = network.num_layers
    return sum(config.can_run_on_DLA(network.get_layer(index)) for index in range(count)), count


def strongly_typed(trt: ModuleType, options: BuildOptions) -> bool:
    """Whether this TensorRT takes precision from the graph; up to version 10 a DLA needs builder flags instead."""
    has_flags = hasattr(trt.BuilderFlag, "FP16")
    return hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED") and not (options.dla is not None and has_flags)


def _creation_flags(trt: ModuleType, options: BuildOptions) -> int:
    kinds = trt.NetworkDefinitionCreationFlag
    flag = kinds.STRONGLY_TYPED if strongly_typed(trt, options) else kinds.EXPLICIT_BATCH
    return 1 << int(flag)


def _builder_flags(binding: Binding, path: str | Path, options: BuildOptions) -> Iterator[object]:
    """The flags for the precision, unless the graph decides, for what a DLA cannot do, and for CUDA graphs."""
    trt = binding.trt
    wanted = []
    if not strongly_typed(trt, options) and options.precision != "fp32":
        wanted += options.precision.upper().split("-")
    if options.dla is not None:
        wanted.append("GPU_FALLBACK")
    if binding.builds_without_gpu:  # else TensorRT-RTX may allocate in a CUDA graph
        wanted.append("REQUIRE_USER_ALLOCATION")
    for name in wanted:
        flag = getattr(trt.BuilderFlag, name, None)
        if flag is None:
            raise InputError(
                f"{path}: {binding.title} {binding.version} cannot build {name.lower()}; export it as fp16"
            )
        yield flag


def _share_profiles(trt: ModuleType, config: Any) -> None:
    """Let several contexts use one optimisation profile, as they may from TensorRT 10 on.

    A profile of the layers is a second context beside the timed one, and a table loads the same segment again.
    """
    sharing = getattr(getattr(trt, "PreviewFeature", None), "PROFILE_SHARING_0806", None)
    if sharing is not None and not config.get_preview_feature(sharing):
        config.set_preview_feature(sharing, True)


def _use_dla(binding: Binding, path: str | Path, builder: Any, config: Any, core: int, precision: str) -> None:
    if core >= builder.num_DLA_cores:
        raise InputError(
            f"--dla {core}: this device and {binding.title} {binding.version} have {builder.num_DLA_cores} DLA cores; "
            "leave it out to run on the GPU"
        )
    if precision not in ("fp16", "int8", "int8-fp16"):
        raise InputError(
            f"--dla {core}: a DLA computes in fp16 or int8, and {path} is {precision}, so all of it would run "
            "on the GPU; export it with --precision fp16, or leave --dla out"
        )
    config.default_device_type = binding.trt.DeviceType.DLA
    config.DLA_core = core


def _profiles(
    binding: Binding, path: str | Path, builder: Any, network: Any, batches: tuple[int, ...]
) -> Iterator[object]:
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    dtype = np.dtype(binding.numpy_type(path, inputs[0].dtype)).name if inputs else "absent"
    for batch in batches:
        shape = check_input(path, [list(tensor.shape) for tensor in inputs], dtype, batch)
        profile = builder.create_optimization_profile()
        profile.set_shape(inputs[0].name, shape, shape, shape)
        yield profile
