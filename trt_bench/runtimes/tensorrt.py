"""TensorRT 8.6 to 11 on a GPU: take an engine from the cache or build it, then run it."""

import functools
from pathlib import Path

import numpy as np

from trt_bench import audit, binding, cuda, engine, trace
from trt_bench import device as host
from trt_bench.errors import InputError
from trt_bench.runtimes import Loaded, Options


def obstacle() -> str | None:
    """Why TensorRT cannot be used here, as a clause; None if it can."""
    try:
        import tensorrt
    except (ImportError, OSError) as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == "tensorrt"
        return "TensorRT is not installed" if missing else f"TensorRT cannot be imported ({error})"
    try:
        _gpu()
        binding.create(tensorrt.Builder)
    except InputError as error:
        return str(error)
    return None


def load(path: str | Path, batch: int, options: Options) -> Loaded:
    """Make the engine of an ONNX file ready to run ``batch`` images, building it unless the cache has it.

    The engine runs in the precision of the ONNX graph. Raises InputError if TensorRT rejects the file, and CheckError
    if the engine does not run in the precision that the file was exported in.
    """
    opened = open_engine(path, options)
    loaded = opened.engine
    gpu = _gpu()
    stream = gpu.stream()
    context = _context(path, loaded, options.batches.index(batch), stream)
    source, outputs, hosts, addresses = _buffers(path, loaded, context, batch, gpu)

    def execute() -> None:
        if not context.execute_async_v3(stream):
            raise InputError(f"{path}: TensorRT could not run it ({binding.log().last}); export it again")

    execute()  # TensorRT sets up what is left to set up in the first run, which a graph cannot capture
    gpu.synchronize(stream)
    graph = gpu.graphs and options.cuda_graph
    compute = gpu.capture(execute, stream) if graph else execute
    marks = [gpu.event(options.spin_wait) for _ in range(5)]  # begin of the block, then around copy, compute, copy

    def copy_in() -> None:
        gpu.to_device(addresses[source], hosts[source], stream)

    def copy_out() -> None:
        for name in outputs:
            gpu.to_host(hosts[name], addresses[name], stream)

    def bind(images: np.ndarray) -> None:
        hosts[source][...] = images
        copy_in()
        gpu.synchronize(stream)

    def repeat(count: int) -> np.ndarray:
        stamps = np.empty((count, trace.COLUMNS))
        gpu.record(marks[0], stream)
        gpu.wait(marks[0])
        begin = trace.now_ms()  # the host's time of the first mark; events count from there
        for index in range(count):
            gpu.record(marks[1], stream)
            if options.transfers:
                copy_in()
            gpu.record(marks[2], stream)
            enqueue_start = trace.now_ms()
            compute()
            enqueue_end = trace.now_ms()
            gpu.record(marks[3], stream)
            if options.transfers:
                copy_out()
            gpu.record(marks[4], stream)
            gpu.wait(marks[4])
            start = begin + gpu.elapsed_ms(marks[0], marks[1])
            h2d, middle, d2h = (gpu.elapsed_ms(marks[i], marks[i + 1]) for i in (1, 2, 3))
            ends = np.cumsum([start, h2d, middle, d2h])
            stamps[index] = [enqueue_start, enqueue_end, ends[0], ends[1], ends[1], ends[2], ends[2], ends[3]]
        return stamps

    def infer(images: np.ndarray) -> np.ndarray:
        bind(images)
        execute()
        copy_out()
        gpu.synchronize(stream)
        return hosts[outputs[0]].copy()

    def profile(count: int) -> list[dict[str, float]]:
        profiler = binding.profiler()
        profiled = _context(path, loaded, options.batches.index(batch), stream)
        _buffers(path, loaded, profiled, batch, gpu)
        profiled.profiler = profiler
        for _ in range(count):
            profiled.execute_async_v3(stream)
            gpu.synchronize(stream)
        return profiler.runs

    settings = {
        "cuda_graph": graph,
        "transfers": options.transfers,
        "pinned_host_memory": True,
        "spin_wait": options.spin_wait,
        "tf32": "TensorRT's default: allowed for fp32 on GPUs that have it",
        "threads": None,
        "workspace_mib": options.workspace_mib,
        "optimization_level": options.level,
        "dla": options.dla,
    }
    shape = tuple(hosts[source].shape)
    return Loaded(shape, batch, bind, repeat, infer, profile, audit.module_map(opened.layers), settings, opened.built)


def open_engine(path: str | Path, options: Options) -> engine.Engine:
    """The engine of an ONNX file on this GPU, from the cache or built; see `trt_bench.engine.open_engine`."""
    return engine.open_engine(path, options, _gpu())


def device(options: Options) -> dict:
    """The GPU and the versions, for bench.json."""
    return {**host.describe(), "kind": "gpu", **host.gpu(_gpu()), "runtime_version": binding.version()}


def _context(path: str | Path, loaded, profile: int, stream: int):
    context = loaded.create_execution_context()
    if context is None:
        raise engine.cannot_run(path)
    if profile:  # the first one is active from the start
        context.set_optimization_profile_async(profile, stream)
        _gpu().synchronize(stream)
    return context


def _buffers(path: str | Path, loaded, context, batch: int, gpu) -> tuple[str, list[str], dict, dict]:
    """Host and device memory for all inputs and outputs: (input, outputs, host arrays, device addresses)."""
    import tensorrt as trt

    names = [loaded.get_tensor_name(index) for index in range(loaded.num_io_tensors)]
    source = next(name for name in names if loaded.get_tensor_mode(name) == trt.TensorIOMode.INPUT)
    context.set_input_shape(source, (batch, *tuple(loaded.get_tensor_shape(source))[1:]))
    hosts, addresses = {}, {}
    for name in names:
        dtype = binding.numpy_type(path, loaded.get_tensor_dtype(name))
        hosts[name] = gpu.pinned(tuple(context.get_tensor_shape(name)), dtype)
        addresses[name] = gpu.malloc(hosts[name].nbytes)
        context.set_tensor_address(name, addresses[name])
    return source, [name for name in names if name != source], hosts, addresses


@functools.cache
def _gpu() -> "cuda.CudaPython | cuda.PyCuda":
    return cuda.available()
