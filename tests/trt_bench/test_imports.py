"""trt_bench runs where only Python, numpy and a runtime are: these tests keep it so."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trt_bench.conftest import ROOT, python

FORBIDDEN = ("torch", "torchvision", "onnx", "matplotlib", "PIL", "sklearn", "tqdm")
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
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.partition(".")[0])
    allowed = {"numpy", "onnxruntime", "tensorrt", "cuda", "pycuda", "layer_folding"}
    optional = {
        "nvml.py": {"pynvml"},
        "pictures.py": {"matplotlib"},
        "onnx_costs.py": {"onnx"},
    }  # each looks whether it is there
    allowed |= optional.get(path.name, set())
    assert names - set(sys.stdlib_module_names) <= allowed


@pytest.mark.alone
def test_runs_without_the_rest_of_the_toolchain(onnx_folder):
    run = "import runpy, trt_bench; runpy.run_module('trt_bench', run_name='__main__', alter_sys=True)"
    networks = [onnx_folder / "deep.onnx", onnx_folder / "shallow.onnx"]
    done = python("-c", BLOCK + run, "bench", *networks, "--seconds", "0.1", "--runtime", "onnxruntime")
    assert (done.returncode, done.stderr) == (0, "")
    assert "verdict: shallow is faster than deep" in done.stdout


@pytest.mark.alone
def test_import_is_quick():
    code = "import time; t = time.perf_counter(); import trt_bench; print(time.perf_counter() - t)"
    assert float(python("-c", code).stdout) < 0.3


def test_help_needs_no_numpy():
    done = python("-X", "importtime", "-m", "trt_bench", "--help")
    assert done.returncode == 0
    assert "numpy" not in done.stderr


@pytest.mark.parametrize("entry", ["trt_bench/__init__.py", "layer_folding/__init__.py"])
def test_an_old_python_reads_as_far_as_the_message(entry):
    """What `python3 -m trt_bench` runs first, and what stops there, must be Python 3.8: that of JetPack 5."""
    ast.parse((ROOT / entry).read_text(), feature_version=(3, 8))


OLD = [path for path in map(shutil.which, ("python3.8", "python3.9", "python3.7")) if path] + sorted(
    map(str, Path.home().glob(".pyenv/versions/3.[789].*/bin/python"))
)


@pytest.mark.parametrize("command", ["trt_bench", "trt_bench.jetson_setup", "trt_bench.board"])
def test_an_old_python_is_told_which_one_is_needed(command):
    version = next((path for path in OLD if works(path)), None)
    if version is None:
        pytest.skip("there is no old Python here")
    done = subprocess.run([version, "-m", command], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: Python 3\.[789]: is older than 3\.10; .*JetPack 6 or 7\n", done.stderr)


def works(python):
    return subprocess.run([python, "-c", ""], capture_output=True).returncode == 0
