"""What the TensorRT runtime uses of ``tensorrt`` and of trt_bench.cuda, on the CPU: engines run in ONNX Runtime.

It lets the logic of the runtime be tested without a GPU. That the real bindings have each of these names is tested in
test_tensorrt_bindings.py.
"""

import enum
import types

import numpy as np
import onnxruntime


class Gpu:
    """A GPU whose addresses are keys of ``memory``, and that logs what was enqueued."""

    name = "fake GPU"

    def __init__(self, graphs=True):
        self.graphs = graphs
        self.memory = {}
        self.log = []

    def malloc(self, size):
        self.memory[len(self.memory) + 1] = bytes(size)
        return len(self.memory)

    def pinned(self, shape, dtype):
        return np.zeros(shape, dtype)

    def stream(self):
        return 7

    def to_device(self, address, source, stream):
        self.log.append("to_device")
        self.memory[address] = source.tobytes()

    def to_host(self, target, address, stream):
        self.log.append("to_host")
        target[...] = np.frombuffer(self.memory[address], target.dtype).reshape(target.shape)

    def synchronize(self, stream):
        self.log.append("synchronize")

    def event(self):
        return object()

    def record(self, event, stream):
        self.log.append("record")

    def elapsed_ms(self, start, stop):
        return 0.25

    def capture(self, enqueue, stream):
        return enqueue


def module(version, gpu, broken=""):
    """A ``tensorrt`` of ``version`` on ``gpu``; ``broken`` is what fails: Builder, build, deserialize or execute."""
    typed = int(version.split(".")[0]) >= 10
    flags = {"STRONGLY_TYPED": 1} if typed else {"EXPLICIT_BATCH": 0}
    trt = types.ModuleType("tensorrt")
    trt.__version__ = version
    trt.NetworkDefinitionCreationFlag = enum.IntEnum("NetworkDefinitionCreationFlag", flags)
    trt.BuilderFlag = enum.Enum("BuilderFlag", [] if typed else ["FP16", "INT8", "FP8"])
    trt.TensorIOMode = enum.Enum("TensorIOMode", ["INPUT", "OUTPUT"])
    trt.DataType = enum.Enum("DataType", ["FLOAT", "BF16"])
    trt.built = []  # creation flags and builder flags of each network

    def nptype(dtype):
        if dtype is trt.DataType.FLOAT:
            return np.float32
        raise TypeError("Could not resolve TensorRT datatype to an equivalent numpy datatype.")

    class ILogger:
        Severity = enum.Enum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING"])

    class Builder:
        def __init__(self, log):
            self.log = log
            if broken == "Builder":
                log.log(ILogger.Severity.ERROR, "CUDA error 35")
                raise TypeError("pybind11::init(): factory function returned nullptr")

        def create_network(self, flags):
            return types.SimpleNamespace(flags=flags)

        def create_builder_config(self):
            chosen = set()
            return types.SimpleNamespace(
                flags=chosen, set_flag=chosen.add, add_optimization_profile=lambda profile: None
            )

        def create_optimization_profile(self):
            return types.SimpleNamespace(set_shape=lambda name, low, best, high: None)

        def build_serialized_network(self, network, config):
            trt.built.append((network.flags, {flag.name for flag in config.flags}))
            if broken == "build":
                self.log.log(ILogger.Severity.ERROR, "no kernel")
                self.log.log(ILogger.Severity.WARNING, "slow")
            return None if broken == "build" else network.path

    class OnnxParser:
        num_errors = 1

        def __init__(self, network, log):
            self.network = network

        def parse_from_file(self, path):
            try:
                session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            except Exception:
                return False
            inputs = session.get_inputs()
            tensors = [
                types.SimpleNamespace(name=node.name, dtype=trt.DataType.FLOAT, shape=[-1, *node.shape[1:]])
                for node in inputs
            ]
            self.network.path = path
            self.network.num_inputs = len(inputs)
            self.network.get_input = tensors.__getitem__
            return True

        def get_error(self, index):
            return types.SimpleNamespace(desc=lambda: "bad node")

    class Runtime:
        def __init__(self, log):
            self.log = log

        def deserialize_cuda_engine(self, plan):
            return None if broken == "deserialize" else Engine(plan)

    class Engine:
        num_io_tensors = 2

        def __init__(self, path):
            self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

        def get_tensor_name(self, index):
            return "xy"[index]

        def get_tensor_mode(self, name):
            return {"x": trt.TensorIOMode.INPUT, "y": trt.TensorIOMode.OUTPUT}[name]

        def get_tensor_dtype(self, name):
            return trt.DataType.BF16 if broken == "type" and name == "y" else trt.DataType.FLOAT

        def create_execution_context(self):
            return Context(self.session)

    class Context:
        def __init__(self, session):
            self.session = session
            self.addresses = {}

        def set_input_shape(self, name, shape):
            self.shape = shape

        def get_tensor_shape(self, name):
            return self.shape if name == "x" else (self.shape[0], *self.session.get_outputs()[0].shape[1:])

        def set_tensor_address(self, name, address):
            self.addresses[name] = address

        def execute_async_v3(self, stream):
            gpu.log.append("execute")
            images = np.frombuffer(gpu.memory[self.addresses["x"]], np.float32).reshape(self.shape)
            gpu.memory[self.addresses["y"]] = self.session.run(None, {"x": images})[0].tobytes()
            return broken != "execute"

    for item in (nptype, ILogger, Builder, OnnxParser, Runtime):
        setattr(trt, item.__name__, item)
    return trt
