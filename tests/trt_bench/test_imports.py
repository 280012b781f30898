"""trt_bench runs where only Python, numpy and a runtime are: these tests keep it so."""

import ast
import sys

import pytest

from tests.trt_bench.conftest import ROOT, python

FORBIDDEN = ("torch", "torchvision", "train", "fold", "export", "onnx", "matplotlib", "PIL", "sklearn", "tqdm")
BLOCK = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {FORBIDDEN!r}:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Block())
"""
SOURCES = sorted((ROOT / "trt_bench").rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_of_every_file(path):
    names = set()
    for node in ast.walk(ast.parse(path.read_text(), feature_version=(3, 10))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names.add(node.module.partition(".")[0])
    allowed = {"numpy", "onnxruntime", "tensorrt", "cuda", "pycuda", "trt_bench"}
    optional = {"nvml.py": {"pynvml"}, "pictures.py": {"matplotlib"}}  # each looks whether it is there
    allowed |= optional.get(path.name, set())
    assert names - set(sys.stdlib_module_names) <= allowed


def test_runs_without_the_rest_of_the_toolchain(onnx_folder):
    run = "import runpy, trt_bench; runpy.run_module('trt_bench', run_name='__main__', alter_sys=True)"
    networks = [onnx_folder / "deep.onnx", onnx_folder / "shallow.onnx"]
    done = python("-c", BLOCK + run, "bench", *networks, "--seconds", "0.1", "--runtime", "onnxruntime")
    assert (done.returncode, done.stderr) == (0, "")
    assert "verdict: shallow is faster than deep" in done.stdout


def test_import_is_quick():
    code = "import time; t = time.perf_counter(); import trt_bench; print(time.perf_counter() - t)"
    assert float(python("-c", code).stdout) < 0.3


def test_help_needs_no_numpy():
    done = python("-X", "importtime", "-m", "trt_bench", "--help")
    assert done.returncode == 0
    assert "numpy" not in done.stderr
