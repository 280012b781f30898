"""TensorRT 8.6 to 11 on a GPU: build an engine from an ONNX file, then run it."""

import functools
from pathlib import Path

import numpy as np

from trt_bench import cuda, metadata
from trt_bench import device as host
from trt_bench.errors import InputError
from trt_bench.runtimes import Loaded, check_input

_alive: list = []  # runtimes and engines, which must not go before the contexts that they made


def obstacle() -> str | None:
    """Why TensorRT cannot be used here, as a clause; None if it can."""
    try:
        import tensorrt
    except (ImportError, OSError) as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == "tensorrt"
        return "TensorRT is not installed" if missing else f"TensorRT cannot be imported ({error})"
    try:
        _gpu()
        _create(tensorrt.Builder)
    except InputError as error:
        return str(error)
    return None


def load(path: str | Path, batch: int, threads: int) -> Loaded:
    """Build an engine for exactly ``batch`` images from an ONNX file and make it ready; ``threads`` is not used.

    The engine runs in the precision of the ONNX graph. Raises InputError if TensorRT rejects the file.
    """
    import tensorrt as trt

    plan, shape, built = build(path, batch, metadata.read(path).get("precision", "fp32"))
    runtime = _create(trt.Runtime)
    engine = runtime.deserialize_cuda_engine(plan)
    context = engine.create_execution_context() if engine else None
    if context is None:
        raise InputError(f"{path}: TensorRT cannot run its engine ({_log().last}); free GPU memory or export it again")
    _alive.append((runtime, engine))
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    source = next(name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT)
    outputs = [name for name in names if name != source]
    context.set_input_shape(source, shape)
    gpu = _gpu()
    stream = gpu.stream()
    hosts, addresses = {}, {}
    for name in names:
        dtype = _numpy_type(path, engine.get_tensor_dtype(name))
        hosts[name] = gpu.pinned(tuple(context.get_tensor_shape(name)), dtype)
        addresses[name] = gpu.malloc(hosts[name].nbytes)
        context.set_tensor_address(name, addresses[name])

    def execute() -> None:
        if not context.execute_async_v3(stream):
            raise InputError(f"{path}: TensorRT could not run it ({_log().last}); export it again")

    execute()  # TensorRT sets up what is left to set up in the first run, which a graph cannot capture
    gpu.synchronize(stream)
    compute = gpu.capture(execute, stream) if gpu.graphs else execute
    start, stop = gpu.event(), gpu.event()

    def bind(images: np.ndarray) -> None:
        hosts[source][...] = images

    def repeat(count: int) -> float:
        total = 0.0
        for _ in range(count):
            gpu.to_device(addresses[source], hosts[source], stream)
            gpu.record(start, stream)
            compute()
            gpu.record(stop, stream)
            for name in outputs:
                gpu.to_host(hosts[name], addresses[name], stream)
            gpu.synchronize(stream)
            total += gpu.elapsed_ms(start, stop)
        return total

    def infer(images: np.ndarray) -> np.ndarray:
        bind(images)
        repeat(1)
        return hosts[outputs[0]].copy()

    settings = {
        "cuda_graph": gpu.graphs,
        "transfers": "timed: one inference is copy to the GPU, compute, copy back, wait",
        "pinned_host_memory": True,
        "spin_wait": "the CUDA driver decides",
        "tf32": "TensorRT's default: allowed for fp32 on GPUs that have it",
        "threads": None,
        **built,
    }
    return Loaded(shape, batch, bind, repeat, infer, settings)


def build(path: str | Path, batch: int, precision: str) -> tuple[object, tuple[int, ...], dict]:
    """Build the engine of an ONNX file for ``batch`` images: (serialized engine, input shape, settings).

    From TensorRT 10 on, the network is strongly typed: the graph decides each layer's precision. Before, the builder
    needs the flag of ``precision`` (fp32, fp16 or int8). Raises InputError with TensorRT's message.
    """
    import tensorrt as trt

    typed = int(trt.__version__.split(".")[0]) >= 10
    builder = _create(trt.Builder)
    mode = "STRONGLY_TYPED" if typed else "EXPLICIT_BATCH"
    network = builder.create_network(1 << int(getattr(trt.NetworkDefinitionCreationFlag, mode)))
    parser = trt.OnnxParser(network, _log())
    if not parser.parse_from_file(str(path)):
        reason = parser.get_error(0).desc() if parser.num_errors else _log().last
        raise InputError(
            f"{path}: not an ONNX network that TensorRT {trt.__version__} parses ({reason}); export it again"
        )
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    dtype = np.dtype(_numpy_type(path, inputs[0].dtype)).name if inputs else "absent"
    shape = check_input(path, [list(tensor.shape) for tensor in inputs], dtype, batch)
    config = builder.create_builder_config()
    if not typed and precision != "fp32":
        flag = getattr(trt.BuilderFlag, precision.upper(), None)
        if flag is None:
            raise InputError(f"{path}: is {precision}, which TensorRT {trt.__version__} cannot run; export it as fp16")
        config.set_flag(flag)
    profile = builder.create_optimization_profile()
    profile.set_shape(inputs[0].name, shape, shape, shape)
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise InputError(
            f"{path}: TensorRT cannot build an engine of it ({_log().last}); free GPU memory or export it again"
        )
    return plan, shape, {"strongly_typed": typed}


def device() -> dict:
    """The GPU and the versions, for bench.json."""
    import tensorrt as trt

    return {**host.describe(), "kind": "gpu", "name": _gpu().name, "runtime_version": trt.__version__}


@functools.cache
def _gpu() -> "cuda.CudaPython | cuda.PyCuda":
    return cuda.available()


@functools.cache
def _log():
    """The one TensorRT logger of the process (TensorRT takes no second), which keeps the last error."""
    import tensorrt as trt

    class Log(trt.ILogger):
        last = "no reason given"

        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # the bindings refuse super()

        def log(self, severity, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.last = message

    return Log()


def _create(kind: type):
    """A Builder or Runtime. Raises InputError where TensorRT gives none, as without a GPU or with an old driver."""
    try:
        return kind(_log())
    except TypeError as error:  # what pybind11 makes of a null pointer
        raise InputError(
            f"TensorRT cannot start its {kind.__name__} ({_log().last}), so check that nvidia-smi works"
        ) from error


def _numpy_type(path: str | Path, dtype) -> type:
    import tensorrt as trt

    try:
        return trt.nptype(dtype)
    except TypeError as error:
        raise InputError(f"{path}: has an input or output of type {dtype.name}; export it with float32") from error
