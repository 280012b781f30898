"""The names that cuda_python.py uses of cuda-python, against the package that is installed."""

import ast
import functools
import re

import pytest

from tests.trt_bench.conftest import ROOT

SOURCE = ast.parse((ROOT / "trt_bench" / "cuda_python.py").read_text())
RUNTIME = r"(?:self\._rt|runtime)\.([\w.]+)"


def test_every_name_exists():
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    names = set()
    for node in ast.walk(SOURCE):
        if isinstance(node, ast.Attribute) and (match := re.fullmatch(RUNTIME, ast.unparse(node))):
            names.add(match[1])
    assert {"cudaGraphInstantiate", "cudaMallocHost", "cudaMemcpyKind.cudaMemcpyHostToDevice"} <= names
    for name in names:
        functools.reduce(getattr, name.split("."), runtime)  # raises AttributeError


def test_every_call_passes_as_many_arguments_as_the_function_takes():
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    checked = 0
    for node in ast.walk(SOURCE):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "self._call":
            function = re.fullmatch(RUNTIME, ast.unparse(node.args[0]))[1]
            signature = getattr(runtime, function).__doc__.splitlines()[0]
            takes = re.search(r"\((.*)\)", signature)[1]
            assert len(node.args) - 1 == (takes.count(",") + 1 if takes else 0), signature
            checked += 1
    assert checked > 10


def test_without_a_gpu_the_reason_is_given():
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    from layer_folding.errors import InputError
    from layer_folding.trt_bench import cuda

    status, count = runtime.cudaGetDeviceCount()
    if status == runtime.cudaError_t.cudaSuccess and count:
        pytest.skip("there is a GPU")
    with pytest.raises(InputError, match=r"no GPU was found \(cuda\w+\)"):
        cuda.available()
