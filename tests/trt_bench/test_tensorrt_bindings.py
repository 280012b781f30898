"""What trt_bench uses of TensorRT, and what plays TensorRT in the other tests, against the real Python bindings.

bindings.py fetches them (``make test`` does; by hand, ``python -m tests.trt_bench.bindings``). Those of
TensorRT-RTX are installed as they are.
"""

import ast
import functools
import importlib.util
import inspect
import json
import re
import types

import pytest

from tests.trt_bench import bindings, fake_cuda, fake_tensorrt
from tests.trt_bench.conftest import ROOT, python

SOURCES = [
    ROOT / "trt_bench" / name
    for name in (
        *("binding.py", "building.py", "definition.py", "engine.py", "execution.py", "compiled_kernels.py"),
        "runtimes/tensorrt.py",
    )
]

# what the variables of the sources hold
CLASSES = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "error": "ParserError",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "inputs[0]": "ITensor",
    "tensor": "ITensor",
    "layer": "ILayer",
    "runtime_config": "IRuntimeConfig",
    "compiled": "IRuntimeCache",
    "cache": "ITimingCache",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "loaded": "ICudaEngine",
    "inspector": "EngineInspector",
    "self.context": "IExecutionContext",
    "profiled.context": "IExecutionContext",
}
# names that mean a module of ours in that file
OURS = {"binding.py": ("error",), "engine.py": ("cache",), "tensorrt.py": ("engine", "error")}

# What only some versions have: the sources probe for it, so the double must have it exactly where the bindings do.
GUARDED = {
    "IProgressMonitor",
    "IBuilderConfig.progress_monitor",
    "BuilderFlag.FP16",
    "BuilderFlag.INT8",
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
    "NetworkDefinitionCreationFlag.EXPLICIT_BATCH",
    "ComputeCapability",
}
# What the sources use of TensorRT-RTX alone, and what of TensorRT alone.
RTX_ONLY = {
    "ComputeCapability.__members__",
    "IBuilderConfig.num_compute_capabilities",
    "IBuilderConfig.set_compute_capability",
    "DynamicShapesKernelSpecializationStrategy.EAGER",
    "CudaGraphStrategy.DISABLED",
    "ICudaEngine.create_runtime_config",
    "IExecutionContext.is_stream_capturable",
    "IRuntimeConfig.cuda_graph_strategy",
    "IRuntimeConfig.create_runtime_cache",
    "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy",
    "IRuntimeConfig.set_runtime_cache",
    "IRuntimeCache.deserialize",
    "IRuntimeCache.serialize",
}
RTX = fake_tensorrt.RTX
RTX_MODULE = "tensorrt_rtx_bindings"

# Prints, for each dotted name in the arguments, the signatures in its docstring; null where the name is missing.
LOOK_UP = """
import functools, importlib, json, sys
tensorrt = importlib.import_module(sys.argv[2])
def signatures(name):
    try:
        found = functools.reduce(getattr, name.split("."), tensorrt)
    except AttributeError:
        return None
    return getattr(found, "__doc__", None) or ""
print(json.dumps({name: signatures(name) for name in json.loads(sys.argv[1])}))
"""


@pytest.fixture(scope="module", params=bindings.PACKAGES)
def version(request):
    if not bindings.folder(request.param).is_dir():
        pytest.skip(f"TensorRT {request.param} bindings are not here; python -m tests.trt_bench.bindings fetches them")
    return request.param


@pytest.fixture(scope="module")
def environment(version):
    return bindings.environment(version)


@pytest.fixture(scope="module", params=[*bindings.PACKAGES, RTX])
def each(request):
    """A version of TensorRT, or that of TensorRT-RTX."""
    if request.param == RTX and importlib.util.find_spec(RTX_MODULE) is None:
        pytest.skip("TensorRT-RTX is not installed; pip install 'layer-folding[rtx]', on x86-64 Linux")
    if request.param != RTX and not bindings.folder(request.param).is_dir():
        pytest.skip(f"TensorRT {request.param} bindings are not here; python -m tests.trt_bench.bindings fetches them")
    return request.param


@pytest.fixture(scope="module")
def found(each):
    """The docstring in the bindings of every name that the sources or the double have; None where they lack it."""
    names = {*used(), *double(each), *GUARDED, *RTX_ONLY}
    module = RTX_MODULE if each == RTX else "tensorrt"
    environment = {} if each == RTX else bindings.environment(each)
    done = python("-c", LOOK_UP, json.dumps(sorted(names)), module, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@functools.cache
def used():
    """Dotted names below ``tensorrt`` that the sources use -> the keywords that they call them with."""
    names = {}
    for source in SOURCES:
        tree = ast.parse(source.read_text())
        keywords = {
            ast.unparse(node.func): {keyword.arg for keyword in node.keywords}
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and node.keywords
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                holder = ast.unparse(node.value)
                dotted = ast.unparse(node)
                below = re.match(r"(?:(?:binding|bound|self)\.)?trt\.(.*)", dotted)
                if below:
                    names.setdefault(below[1], set())
                elif holder in CLASSES and holder not in OURS.get(source.name, ()):
                    names.setdefault(f"{CLASSES[holder]}.{node.attr}", set()).update(keywords.get(dotted, ()))
    for name in ("FP16", "INT8", "GPU_FALLBACK"):  # looked up with getattr
        names[f"BuilderFlag.{name}"] = set()
    return names


def double(version):
    """Dotted names of the double of ``version`` -> its functions' arguments, or None for what is no function."""
    found = {}
    for name, item in vars(fake_tensorrt.module(version, fake_cuda.Gpu())).items():
        if isinstance(item, types.FunctionType):
            found[name] = list(inspect.signature(item).parameters)
        elif isinstance(item, type):
            found[name] = None
            members = getattr(item, "__members__", None) or vars(item)
            for attribute in members:
                if not attribute.startswith("_"):
                    value = vars(item).get(attribute)
                    is_method = isinstance(value, types.FunctionType)
                    found[f"{name}.{attribute}"] = list(inspect.signature(value).parameters) if is_method else None
    return found


def test_the_sources_are_understood():
    names = used()
    assert {"OnnxParser", "ILogger.Severity.ERROR", "TensorIOMode.INPUT", "nptype", "BuilderFlag"} <= set(names)
    assert {"IExecutionContext.execute_async_v3", "ParserError.desc", "ITensor.dtype"} <= set(names)
    assert {"Runtime.deserialize_cuda_engine", "INetworkDefinition.num_inputs", "Builder.num_DLA_cores"} <= set(names)
    assert {"IBuilderConfig.DLA_core", "IExecutionContext.profiler", "ITimingCache.serialize"} <= set(names)
    assert names["IBuilderConfig.set_timing_cache"] == {"ignore_mismatch"}
    assert len(names) > 50


def test_every_name_exists_or_is_guarded(each, found):
    missing = {name.removesuffix(".__init__") for name in used() if found[name] is None}
    assert missing <= GUARDED | (set() if each == RTX else RTX_ONLY | {name.partition(".")[0] for name in RTX_ONLY})


def test_what_is_probed_for_in_tensorrt_rtx_is_used():
    assert set(used()) >= RTX_ONLY


def test_every_keyword_exists(found):
    for name, keywords in used().items():
        for keyword in keywords if found[name] is not None else ():
            assert re.search(rf"\b{keyword}: ", found[name]), f"{name} takes no {keyword}"


def test_the_double_has_nothing_that_the_bindings_lack(each, found):
    names = double(each)
    assert {"Builder.build_serialized_network", "IExecutionContext.profiler", "nptype"} <= set(names)
    assert [name for name in names if found[name] is None] == []


def test_the_double_takes_the_arguments_of_the_bindings(each, found):
    """pybind11 writes signatures into docstrings, some functions have several."""
    functions = {name: arguments for name, arguments in double(each).items() if arguments is not None}
    checked = 0
    for name, arguments in functions.items():
        signatures = re.findall(rf"{name.rpartition('.')[2]}\((self: .*)\) ->", found[name])
        if signatures:
            checked += 1
            taken = [re.findall(r"(\w+): ", re.sub(r"= <.*?>", "", signature)) for signature in signatures]
            assert arguments in [names[: len(arguments)] for names in taken], f"{name}: {taken}"
    assert checked > 15


def test_what_the_sources_probe_for_is_in_the_double_where_it_is_in_the_bindings(each, found):
    assert {name for name in GUARDED if found[name] is not None} == GUARDED & set(double(each))


def test_the_progress_monitor_and_profiler_are_accepted(version, environment):
    """Subclasses with the methods that TensorRT will call, with the arguments that it will give."""
    code = """
import inspect, tensorrt as trt
from trt_bench import binding
shown = []
monitor = binding.progress_monitor(trt, shown.append, lambda: len(shown) > 1)
assert (monitor is None) == (not hasattr(trt, "IProgressMonitor"))
if monitor is not None:
    monitor.phase_start("Building", None, 4)
    assert monitor.step_complete("Building", 1)
    monitor.phase_finish("Building")
    assert shown == ["Building, 25 %"] and not monitor.step_complete("Building", 2)
    for name in ("phase_start", "step_complete", "phase_finish"):
        ours = list(inspect.signature(getattr(monitor, name)).parameters)
        assert all(f"{argument}: " in getattr(trt.IProgressMonitor, name).__doc__ for argument in ours), name
profiler = binding.profiler(trt)
for _ in range(2):
    profiler.report_layer_time("a", 1.0)
    profiler.report_layer_time("b", 2.0)
assert profiler.runs == [{"a": 1.0, "b": 2.0}] * 2
"""
    done = python("-c", code, env=environment)
    assert done.returncode == 0, done.stderr


def test_the_logger_keeps_the_last_error_and_a_null_builder_is_an_input_error(environment):
    code = """
import tensorrt as trt
from trt_bench import binding
from trt_bench.runtimes import tensorrt as runtime
log = binding.find("tensorrt").log
log.log(trt.ILogger.Severity.ERROR, "kept")
log.log(trt.ILogger.Severity.WARNING, "no reason")
log.log(trt.ILogger.Severity.WARNING, "out of\\n memory")
log.log(trt.ILogger.Severity.WARNING, "out of memory")
assert log.warnings == ["out of memory"], log.warnings
runtime._gpu = lambda: None
print(runtime.TENSORRT.obstacle())
"""
    done = python("-c", code, env=environment)
    assert done.stdout == "TensorRT cannot start its Builder (kept), so check that nvidia-smi works\n", done.stderr


@pytest.mark.parametrize("command", ["bench --runtime tensorrt", "build --runtime tensorrt"])
def test_without_a_gpu_it_is_one_line(environment, onnx_folder, command):
    done = python("-m", "trt_bench", *command.split(), onnx_folder / "shallow.onnx", env=environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(
        r"error: --runtime tensorrt: (?!TensorRT is not installed).*; it needs an NVIDIA GPU.*\n", done.stderr
    )


def test_auto_falls_back_and_says_why(environment, onnx_folder):
    path = onnx_folder / "shallow.onnx"
    done = python("-m", "trt_bench", "bench", "--seconds", "0.01", path, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert ", because " in done.stdout.splitlines()[0]
