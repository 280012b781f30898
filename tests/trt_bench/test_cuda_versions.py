import sys

import pytest

from layer_folding.errors import InputError
from layer_folding.trt_bench import cuda, cuda_versions, runtimes
from layer_folding.trt_bench.cuda_python import CudaPython


@pytest.mark.parametrize(
    ("driver", "package"),
    [
        ("12.2", "cuda-python>=12.0,<12.3"),
        ("12.6.11", "cuda-python>=12.0,<12.7"),
        ("13.0", "cuda-python>=13.0,<13.1"),
        (None, "cuda-python"),
    ],
)
def test_cuda_python_is_never_newer_than_the_driver(driver, package):
    assert cuda_versions.requirement(driver) == package


def test_a_machine_without_a_driver(monkeypatch):
    monkeypatch.setattr(cuda_versions, "LIBRARY", "no_such_library.so")
    assert cuda_versions.of_driver() is None


def test_the_real_obstacle_is_named_with_the_package_that_fits(monkeypatch, install):
    """On a board that has TensorRT and no cuda-python, ONNX Runtime is not what is missing."""
    available = cuda.available
    install()
    monkeypatch.setattr(cuda, "available", available)
    monkeypatch.setattr(cuda_versions, "of_driver", lambda: "12.6")
    loaded = [name for name in sys.modules if name.partition(".")[0] in ("cuda", "pycuda")]
    for name in ("cuda", "pycuda", *loaded):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r"--runtime auto: TensorRT: cuda-python is not installed and pycuda is not installed \(pip "
    ) as raised:
        runtimes.choose("auto")
    assert "pip install 'cuda-python>=12.0,<12.7'" in str(raised.value)


def test_a_broken_cuda_python_is_not_called_missing(monkeypatch):
    package = type(sys)("cuda")
    package.__path__ = []
    bindings = type(sys)("cuda.bindings")  # without its library
    monkeypatch.delitem(sys.modules, "cuda.bindings.runtime", raising=False)
    for name, module in (("cuda", package), ("cuda.bindings", bindings), ("pycuda", None)):
        monkeypatch.setitem(sys.modules, name, module)
    with pytest.raises(
        InputError, match=r"^cuda-python cannot be imported \(cannot import name 'runtime' .*\) and pycu"
    ):
        cuda.available()


def test_a_cuda_python_that_looks_for_the_driver_late(monkeypatch):
    class Runtime:
        @staticmethod
        def cudaGetDeviceCount():
            raise RuntimeError("Failed to dlopen libcuda.so")

    package = type(sys)("cuda")
    package.bindings = type(sys)("cuda.bindings")
    package.bindings.runtime = Runtime
    for name, module in (("cuda", package), ("cuda.bindings", package.bindings)):
        monkeypatch.setitem(sys.modules, name, module)
    with pytest.raises(InputError, match=r"no NVIDIA driver was found \(Failed to dlopen libcuda\.so\)"):
        CudaPython()
