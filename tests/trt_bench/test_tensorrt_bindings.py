"""The names that the TensorRT runtime uses, against the real Python bindings of TensorRT, without TensorRT itself.

LAYER_FOLDING_TRT_BINDINGS names folders, with colons between, that ``pip install --no-deps --target FOLDER`` has filled
with ``tensorrt-bindings==8.6.1`` or ``tensorrt-cu12-bindings==10.3.0``. Empty stand-ins for the TensorRT libraries let
them import without a GPU: classes, methods and enums are then the real ones, and Builder fails as without a GPU.
"""

import ast
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.trt_bench.conftest import ROOT, python

FOLDERS = [Path(name) for name in os.environ.get("LAYER_FOLDING_TRT_BINDINGS", "").split(":") if name]
SOURCE = ROOT / "trt_bench" / "runtimes" / "tensorrt.py"

# what the variables of the source hold
CLASSES = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "tensor": "ITensor",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "parser.get_error(0)": "ParserError",
    "inputs[0]": "ITensor",
}


@pytest.fixture(scope="module", params=FOLDERS or [None], ids=lambda folder: folder.name if folder else "none")
def environment(request, tmp_path_factory):
    """Environment variables with which ``import tensorrt`` gives the real bindings on stand-ins for the libraries."""
    if request.param is None:
        pytest.skip("LAYER_FOLDING_TRT_BINDINGS names no folder with tensorrt_bindings")
    bindings = next(request.param.glob("tensorrt*/tensorrt.so"), None)
    if bindings is None:
        pytest.skip(f"no tensorrt.so in {request.param}")
    if not all(map(shutil.which, ("cc", "nm", "readelf"))):
        pytest.skip("needs cc, nm and readelf")
    folder = tmp_path_factory.mktemp("tensorrt")
    undefined = _output("nm", "-D", "--undefined-only", bindings).split()
    missing = [name for name in undefined if re.fullmatch(r"(create|get|init)[A-Z]\w*|_ZN\d+nv\w+", name)]
    stubs = folder / "stubs.c"
    stubs.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in missing))
    for library in re.findall(r"libnv\w+\.so\.\d+", _output("readelf", "-d", bindings)):
        subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / library, stubs], check=True)
    if bindings.parent.name != "tensorrt":  # the package of that name only passes on what is in the bindings
        (folder / "tensorrt").mkdir()
        (folder / "tensorrt" / "__init__.py").write_text(
            "from tensorrt_bindings import *\nfrom tensorrt_bindings import __version__\n"
        )
    return {"LD_LIBRARY_PATH": str(folder), "PYTHONPATH": os.pathsep.join([str(folder), str(request.param)])}


def _output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def used_names():
    """Dotted names below ``tensorrt`` that the source uses, and attributes of the variables in CLASSES."""
    names = set()
    for node in ast.walk(ast.parse(SOURCE.read_text())):
        if isinstance(node, ast.Attribute):
            root, _, rest = (
                ast.unparse(node).partition(".") if node.attr != "desc" else ("parser.get_error(0)", "", "desc")
            )
            if root in ("trt", "tensorrt"):
                names.add(rest)
            elif root in CLASSES and "(" not in rest:
                names.add(f"{CLASSES[root]}.{rest}")
    return sorted(names)


def test_the_source_is_understood():
    names = used_names()
    assert {"OnnxParser", "ILogger.Severity.ERROR", "TensorIOMode.INPUT", "nptype", "BuilderFlag"} <= set(names)
    assert {"IExecutionContext.execute_async_v3", "ParserError.desc", "ITensor.dtype"} <= set(names)
    assert {"Runtime.deserialize_cuda_engine", "INetworkDefinition.num_inputs"} <= set(names)


def test_every_name_exists(environment):
    code = """
import functools, json, sys, tensorrt
def exists(name):
    try:
        functools.reduce(getattr, name.split("."), tensorrt)
    except AttributeError:
        return False
    return True
print(json.dumps([name for name in json.loads(sys.argv[1]) if not exists(name)]))
"""
    done = python("-c", code, json.dumps(used_names()), env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


def test_flags_that_are_looked_up_by_name(environment):
    code = """
import tensorrt as trt
typed = int(trt.__version__.split(".")[0]) >= 10
flag = trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED if typed else trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH
assert 1 << int(flag) > 0
assert typed or (trt.BuilderFlag.FP16.name, trt.BuilderFlag.INT8.name) == ("FP16", "INT8")
"""
    done = python("-c", code, env=environment)
    assert done.returncode == 0, done.stderr


def test_the_logger_keeps_the_last_error_and_a_null_builder_is_an_input_error(environment):
    code = """
import tensorrt as trt
from trt_bench.runtimes import tensorrt as runtime
log = runtime._log()
log.log(trt.ILogger.Severity.ERROR, "kept")
log.log(trt.ILogger.Severity.WARNING, "not kept")
runtime._gpu = lambda: None
print(runtime.obstacle())
"""
    done = python("-c", code, env=environment)
    assert done.stdout == "TensorRT cannot start its Builder (kept), so check that nvidia-smi works\n", done.stderr


def test_bench_without_a_gpu_is_one_line(environment, onnx_folder):
    path = onnx_folder / "shallow.onnx"
    done = python("-m", "trt_bench", "bench", "--runtime", "tensorrt", path, env=environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(
        r"error: --runtime tensorrt: (?!TensorRT is not installed).*; it needs an NVIDIA GPU.*\n", done.stderr
    )
    done = python("-m", "trt_bench", "bench", "--seconds", "0.01", path, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert ", because " in done.stdout.splitlines()[0]
