"""What trt_bench uses of ``tensorrt``, on the CPU: engines run in ONNX Runtime.

It carries the logic from building to timing without a GPU. That the real bindings of each version have every name and
argument here, and lack what this lacks on purpose, is tested in test_tensorrt_bindings.py.
"""

import collections
import contextlib
import enum
import json
import signal
import types
import weakref

import numpy as np
import onnx
import onnxruntime

DLA_CORES = 2
RTX = "1.7.1.116"  # the version of TensorRT-RTX
WARNINGS = (
    "Insufficient workspace for tactic 7.\n  Skipping it.",
    "Insufficient workspace for tactic 7. Skipping it.",
    "Default DLA is enabled but layer a is not supported on DLA, falling back to GPU.",
    "onnx2trt_utils.cpp: weights have INT64 while they were cast down.",
)
LAYER_KINDS = {
    "Conv": "CONVOLUTION", "MatMul": "MATRIX_MULTIPLY", "QuantizeLinear": "QUANTIZE", "DequantizeLinear": "DEQUANTIZE",
    "Relu": "ACTIVATION", "Cast": "CAST", "Flatten": "SHUFFLE",
}  # fmt: skip
LAYER_TYPES = {"Conv": "CaskConvolution", "MatMul": "CaskGemmMatrixMultiply"}
RTX_TYPES = {"Conv": "correlation", "MatMul": "gemm"}
# What each layer of an engine shows in the inspector, by version of its prose.
FORMATS = {
    8: {"fp32": "Row major linear FP32", "fp16": "Row major linear FP16 format", "int8": "Row major Int8 format"},
    10: {"fp32": "Float", "fp16": "Half", "int8": "Int8"},
}


def module(version, gpu, broken=""):
    """A ``tensorrt`` of ``version`` on ``gpu``.

    ``broken`` is what fails: Builder, build, deserialize, context, execute, type (of an output), precision (the engine
    runs in FP32 whatever it was asked), few (of each kind, one layer runs as asked), interrupted build (Ctrl-C in a
    build; so for a parse, load, context or profile), dla (which can take nothing), warnings (in a build), capturable
    (as a CUDA graph), or kernels (that were kept).
    """
    rtx = version == RTX
    major = 11 if rtx else int(version.split(".")[0])
    trt = types.ModuleType("tensorrt_rtx" if rtx else "tensorrt")
    trt.__version__ = version
    creation = {8: ["EXPLICIT_BATCH"], 10: ["EXPLICIT_BATCH", "STRONGLY_TYPED"], 11: ["STRONGLY_TYPED"]}[major]
    flags = {8: ["FP16", "INT8", "FP8"], 10: ["FP16", "BF16", "INT8", "FP8"], 11: []}[major]
    trt.NetworkDefinitionCreationFlag = enum.IntEnum("NetworkDefinitionCreationFlag", creation, start=0)
    flags += ["GPU_FALLBACK", "TF32", *(["REQUIRE_USER_ALLOCATION"] if rtx else [])]
    trt.BuilderFlag = enum.Enum("BuilderFlag", flags)
    trt.TensorIOMode = enum.Enum("TensorIOMode", ["INPUT", "OUTPUT"])
    trt.DataType = enum.Enum("DataType", ["FLOAT", "HALF", "INT8", "INT32"])
    trt.LayerType = enum.Enum("LayerType", sorted({*LAYER_KINDS.values(), "REDUCE"}))
    trt.MemoryPoolType = enum.Enum("MemoryPoolType", ["WORKSPACE"])
    trt.ProfilingVerbosity = enum.Enum("ProfilingVerbosity", ["DETAILED", "LAYER_NAMES_ONLY"])
    trt.LayerInformationFormat = enum.Enum("LayerInformationFormat", ["JSON", "ONELINE"])
    trt.DeviceType = enum.Enum("DeviceType", ["GPU", "DLA"])
    if major < 11:
        trt.PreviewFeature = enum.Enum("PreviewFeature", ["PROFILE_SHARING_0806"])
    if rtx:
        trt.ComputeCapability = enum.Enum("ComputeCapability", ["NONE", "CURRENT", "SM75", "SM86", "SM120"])
        strategies = ["LAZY", "EAGER", "NONE"]
        trt.DynamicShapesKernelSpecializationStrategy = enum.Enum("Strategy", strategies)
        trt.CudaGraphStrategy = enum.Enum("CudaGraphStrategy", ["DISABLED", "WHOLE_GRAPH_CAPTURE"])
        trt.compiled = []  # what each runtime cache was given to begin with
    trt.built = []  # of each engine: creation flags, builder flags, and the config

    def at_work(what):
        if broken == f"interrupted {what}":  # Ctrl-C there, and nobody to hear what a callback raises
            with contextlib.suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)

    def nptype(trt_type):
        if trt_type is trt.DataType.FLOAT:
            return np.float32
        raise TypeError("Could not resolve TensorRT datatype to an equivalent numpy datatype.")

    class ILogger:
        Severity = enum.Enum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "VERBOSE"])

    class IProfiler:
        pass

    class IProgressMonitor:
        pass

    class IOptimizationProfile:
        __slots__ = ("_shapes",)

        def set_shape(self, input, min, opt, max):
            self._shapes = (tuple(min), tuple(opt), tuple(max))

    class ITimingCache:
        def __init__(self, content):
            self._content = content

        def serialize(self):
            return memoryview(self._content or f"timing cache of {version}".encode())

    class IBuilderConfig:
        __slots__ = (
            *("profiling_verbosity", "builder_optimization_level", "default_device_type", "DLA_core"),
            *(("progress_monitor",) if major >= 10 else ()),
            *(("num_compute_capabilities",) if rtx else ()),
            *("_flags", "_profiles", "_pools", "_cache", "_sharing", "_target"),
        )

        def __init__(self):
            self._flags, self._profiles, self._pools, self._cache = set(), [], {}, None
            self._sharing = major >= 10

        def get_preview_feature(self, feature):
            return self._sharing

        def set_preview_feature(self, feature, enable):
            self._sharing = enable

        def set_flag(self, flag):
            self._flags.add(flag.name)

        def can_run_on_DLA(self, layer):
            return broken != "dla" and layer._node.op_type in LAYER_TYPES

        def set_memory_pool_limit(self, pool, pool_size):
            self._pools[pool.name] = pool_size

        def create_timing_cache(self, serialized_timing_cache):
            content = bytes(serialized_timing_cache)
            return ITimingCache(content) if content in (b"", f"timing cache of {version}".encode()) else None

        def set_timing_cache(self, cache, ignore_mismatch):
            self._cache = cache
            return True

        def add_optimization_profile(self, profile):
            self._profiles.append(profile)
            return len(self._profiles) - 1

        if rtx:

            def set_compute_capability(self, compute_capability, index):
                self._target = compute_capability.name
                return True

    class INetworkDefinition:
        def __init__(self, flags):
            self._flags, self._onnx, self._inputs = flags, b"", []

        num_inputs = property(lambda self: len(self._inputs))
        num_layers = property(lambda self: len(self._nodes()))

        def get_layer(self, index):
            return ILayer(self._nodes()[index], _tensor_types(self._onnx))

        def _nodes(self):
            return onnx.load_from_string(self._onnx).graph.node

        def get_input(self, index):
            return self._inputs[index]

    class ITensor:
        __slots__ = ("dtype", "name", "shape")

        def __init__(self, name, dtype, shape=()):
            self.name, self.dtype, self.shape = name, dtype, shape

    class ILayer:
        def __init__(self, node, types_of):
            self._node, self._types = node, types_of

        name = property(lambda self: self._node.name)
        type = property(lambda self: trt.LayerType[LAYER_KINDS.get(self._node.op_type, "REDUCE")])
        num_inputs = property(lambda self: len(self._node.input))
        num_outputs = property(lambda self: len(self._node.output))

        def get_input(self, index):
            return self._tensor(self._node.input[index])

        def get_output(self, index):
            return self._tensor(self._node.output[index])

        def _tensor(self, name):
            return ITensor(name, trt.DataType[self._types.get(name, "FLOAT")])

    class Builder:
        num_DLA_cores = DLA_CORES

        def __init__(self, logger):
            self._log = logger
            if broken == "Builder":
                logger.log(ILogger.Severity.ERROR, "CUDA error 35")
                raise TypeError("pybind11::init(): factory function returned nullptr")

        def create_network(self, flags=0):
            return INetworkDefinition(flags)

        def create_builder_config(self):
            return IBuilderConfig()

        def create_optimization_profile(self):
            return IOptimizationProfile()

        def build_serialized_network(self, network, config):
            trt.built.append((network._flags, set(config._flags), config))
            monitor = getattr(config, "progress_monitor", None)
            at_work("build")
            if monitor is not None:
                monitor.phase_start("Building", None, 2)
                if not monitor.step_complete("Building", 1):
                    self._log.log(ILogger.Severity.ERROR, "cancelled")
                    return None
                monitor.phase_finish("Building")
            for text in WARNINGS if broken == "warnings" else ():
                self._log.log(ILogger.Severity.WARNING, text)
            if broken == "build":
                self._log.log(ILogger.Severity.ERROR, "no kernel")
                self._log.log(ILogger.Severity.WARNING, "slow")
                return None
            typed = "STRONGLY_TYPED" in creation and network._flags >> trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
            header = {
                "version": version,
                "shapes": [profile._shapes[1] for profile in config._profiles],
                "sharing": config._sharing,
                "allowed": None if typed else sorted(config._flags),
            }
            if rtx:
                self._log.log(ILogger.Severity.VERBOSE, _layer_list(network._onnx))
            return memoryview(b"plan" + json.dumps(header).encode() + b"\n" + network._onnx)

    class OnnxParser:
        num_errors = 1

        def __init__(self, network, logger):
            self._network = network

        def parse(self, model, path=None):
            at_work("parse")
            try:
                inputs = _session(model).get_inputs()
            except Exception:  # whatever ONNX Runtime makes of it
                return False
            self._network._onnx = bytes(model)
            self._network._inputs = [
                ITensor(node.name, trt.DataType.FLOAT, [axis if isinstance(axis, int) else -1 for axis in node.shape])
                for node in inputs
            ]
            return True

        def get_error(self, index):
            return ParserError()

    class ParserError:
        def desc(self):
            return "(false)"

        def code(self):
            return types.SimpleNamespace(name="UNSUPPORTED_NODE")

        if major >= 10:

            def node_name(self):
                return "a/Conv"

            def node_operator(self):
                return "Conv"

    class Runtime:
        DLA_core = -1

        def __init__(self, logger):
            self._log = logger

        def deserialize_cuda_engine(self, serialized_engine):
            at_work("load")
            content = bytes(serialized_engine)
            header, _, model = content[4:].partition(b"\n")
            if broken == "deserialize" or content[:4] != b"plan" or json.loads(header)["version"] != version:
                self._log.log(ILogger.Severity.ERROR, "not a plan of this version")
                return None
            return ICudaEngine(json.loads(header), model)

    class ICudaEngine:
        def __init__(self, header, model):
            self._header, self._model, self._session = header, model, _session(model)
            self._contexts = weakref.WeakSet()

        num_io_tensors = 2

        def get_tensor_name(self, index):
            return "xy"[index]

        def get_tensor_mode(self, name):
            return {"x": trt.TensorIOMode.INPUT, "y": trt.TensorIOMode.OUTPUT}[name]

        def get_tensor_dtype(self, name):
            return trt.DataType.INT32 if broken == "type" and name == "y" else trt.DataType.FLOAT

        def get_tensor_shape(self, name):
            return [-1, *self._session.get_inputs()[0].shape[1:]]

        if rtx:

            def create_execution_context(self, runtime_config):
                return None if broken == "context" else IExecutionContext(self)

            def create_runtime_config(self):
                return IRuntimeConfig()

        else:

            def create_execution_context(self):
                return None if broken == "context" else IExecutionContext(self)

        def create_engine_inspector(self):
            return EngineInspector(self)

    class EngineInspector:
        def __init__(self, engine):
            self._engine = engine

        def get_engine_information(self, format):
            layers = [
                {
                    "Name": node.name,
                    "LayerType": LAYER_TYPES.get(node.op_type, "PointWiseV2"),
                    "Inputs": [{"Format/Datatype": FORMATS[min(major, 10)][precision]}],
                    "Outputs": [{"Format/Datatype": FORMATS[min(major, 10)][precision]}],
                    "Metadata": f"[ONNX Layer: {node.name}]",
                }
                for node, precision in _precisions(self._engine)
            ]
            return json.dumps({"Layers": layers, "Bindings": ["x", "y"]})

    def _precisions(engine):
        """The nodes of a network and what they run in: as typed, or as the flags allow."""
        allowed = engine._header["allowed"]
        types_of = _types(engine._model)
        seen = collections.Counter()
        for node in onnx.load_from_string(engine._model).graph.node:
            runs = "fp16" if allowed and "FP16" in allowed else types_of[node.name]
            if broken == "few" and node.op_type in LAYER_TYPES and seen[node.op_type]:
                runs = "fp32"
            seen[node.op_type] += 1
            if broken == "precision" or (allowed is not None and runs.upper() not in allowed):
                runs = "fp32"
            yield node, runs

    class IExecutionContext:
        __slots__ = ("__weakref__", "_active", "_addresses", "_batch", "_engine", "_shape", "profiler")

        def __init__(self, engine):
            at_work("context")
            self._engine, self._addresses, self._batch = engine, {}, engine._header["shapes"][0][0]
            self.profiler = None
            self._active = engine._header["sharing"] or not engine._contexts
            engine._contexts.add(self)

        def set_optimization_profile_async(self, profile_index, stream_handle):
            self._batch = self._engine._header["shapes"][profile_index][0]
            self._active = True
            return True

        def set_input_shape(self, name, shape):
            self._shape = tuple(shape) if self._active else (-1, *shape[1:])
            return self._shape[0] == self._batch

        def get_tensor_shape(self, name):
            outputs = self._engine._session.get_outputs()[0].shape[1:]
            return self._shape if name == "x" else (self._shape[0], *outputs)

        def set_tensor_address(self, name, memory):
            self._addresses[name] = memory
            return True

        def execute_async_v3(self, stream_handle):
            gpu._enqueue("execute")
            images = np.frombuffer(gpu.memory[self._addresses["x"]], np.float32).reshape(self._shape)
            gpu.memory[self._addresses["y"]] = self._engine._session.run(None, {"x": images})[0].tobytes()
            if self.profiler:
                at_work("profile")
            for node, _ in _precisions(self._engine) if self.profiler else ():
                self.profiler.report_layer_time(node.name, 0.125)
            return broken != "execute" and self._shape[0] == self._batch

        if rtx:

            def is_stream_capturable(self, stream):
                return broken != "capturable"

    class IRuntimeConfig:
        __slots__ = ("cuda_graph_strategy", "dynamic_shapes_kernel_specialization_strategy")

        def create_runtime_cache(self):
            return IRuntimeCache()

        def set_runtime_cache(self, cache):
            return True

    class IRuntimeCache:
        def deserialize(self, blob):
            trt.compiled.append(bytes(blob))
            return broken != "kernels"

        def serialize(self):
            return memoryview(b"compiled kernels")

    public = [
        nptype,
        ILogger,
        IProfiler,
        IOptimizationProfile,
        *([IRuntimeConfig, IRuntimeCache] if rtx else []),
        ITimingCache,
        IBuilderConfig,
        ITensor,
        ILayer,
        INetworkDefinition,
        Builder,
    ]
    public += [OnnxParser, ParserError, Runtime, ICudaEngine, EngineInspector, IExecutionContext]
    for item in [*public, *([IProgressMonitor] if major >= 10 else [])]:
        setattr(trt, item.__name__, item)
    return trt


def _layer_list(model):
    """The end of the build log of TensorRT-RTX, as far as it is read."""
    types_of = _types(model)
    lines = []
    for node in onnx.load_from_string(model).graph.node:
        kind, datatype = RTX_TYPES.get(node.op_type, "kgen"), FORMATS[10][types_of[node.name]]
        tensors = f"[ {{ Name: t, Dimensions: [1,3], Datatype: {datatype}, Format: (Linear) }}]"
        rest = f"Constants: [], Outputs: {tensors}, TacticName: t, StreamId: 0, Metadata: [ONNX Layer: {node.name}]"
        lines.append(f"Name: {node.name}_myl0_0, LayerType: {kind}, Inputs: {tensors}, {rest}")
    return "\n".join(["Layers:", *lines, "", "I/O Tensors:"])


def _session(model):
    return onnxruntime.InferenceSession(bytes(model), providers=["CPUExecutionProvider"])


def _tensor_types(model):
    """The TensorRT type of each tensor that is no float32."""
    graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(model)).graph
    names = {onnx.TensorProto.FLOAT16: "HALF", onnx.TensorProto.INT8: "INT8"}
    known = [(each.name, each.type.tensor_type.elem_type) for each in graph.value_info]
    known += [(each.name, each.data_type) for each in graph.initializer]
    return {name: names[code] for name, code in known if code in names}


def _types(model):
    """fp32, fp16 or int8 for each node: by the types that the graph gives what it computes."""
    graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(model)).graph
    halves = {value.name for value in graph.value_info if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16}
    quantised = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    return {
        node.name: "int8" if quantised & set(node.input) else "fp16" if halves & set(node.output) else "fp32"
        for node in graph.node
    }
