"""The logic of the TensorRT runtime, with TensorRT and CUDA played by fake_tensorrt."""

import sys

import numpy as np
import pytest

from tests.trt_bench import fake_tensorrt
from tests.trt_bench.conftest import CLASSES, evalset, save_convs, save_linear
from trt_bench import cuda, results
from trt_bench.errors import InputError
from trt_bench.runtimes import choose, onnxruntime, tensorrt


@pytest.fixture
def install(monkeypatch):
    """Put a fake TensorRT on a fake GPU in place: install(version, broken="", graphs=True) -> (tensorrt, gpu)."""

    def put(version="10.3.0", broken="", graphs=True):
        gpu = fake_tensorrt.Gpu(graphs)
        module = fake_tensorrt.module(version, gpu, broken)
        monkeypatch.setitem(sys.modules, "tensorrt", module)
        monkeypatch.setattr(cuda, "available", lambda: gpu)
        tensorrt._gpu.cache_clear()
        tensorrt._log.cache_clear()
        return module, gpu

    yield put
    tensorrt._gpu.cache_clear()
    tensorrt._log.cache_clear()


@pytest.mark.parametrize("version", ["8.6.1", "10.3.0", "11.4.0.106"])
def test_bench_from_end_to_end(install, run, onnx_folder, tmp_path, version):
    install(version)
    np.savez(tmp_path / "eval.npz", **evalset(size=12))
    networks = [onnx_folder / "deep.onnx", onnx_folder / "shallow.onnx"]
    output = tmp_path / "bench.json"
    code, out, err = run("bench", *networks, "--data", tmp_path / "eval.npz", "-o", output, "--seconds", "0.05")
    assert (code, err) == (0, "")
    assert out.startswith(f"TensorRT {version} on the GPU (fake GPU), because TensorRT finds a GPU\n")
    result = results.load(output)
    assert result["runtime"] == "tensorrt"
    assert result["models"][0]["compute_ms"]["median"] == 0.25
    assert result["settings"]["cuda_graph"] and result["settings"]["threads"] is None
    reference = onnxruntime.load(networks[0], 1, 1).infer
    images = np.ones((1, 3, 12, 12), np.float32)
    np.testing.assert_array_equal(tensorrt.load(networks[0], 1, 1).infer(images), reference(images))


@pytest.mark.parametrize("graphs", [True, False])
def test_one_inference_is_copy_compute_copy_wait(install, graphs, tmp_path):
    _, gpu = install(graphs=graphs)
    network = tensorrt.load(save_linear(tmp_path / "x.onnx", np.ones((48, CLASSES), np.float32)), 5, 1)
    assert network.input_shape == (5, 3, 4, 4) and network.eval_batch == 5
    gpu.log.clear()
    assert network.repeat(3) == 0.75
    assert gpu.log == ["to_device", "record", "execute", "record", "to_host", "synchronize"] * 3


@pytest.mark.parametrize(
    ("version", "precision", "network_flags", "builder_flags"),
    [
        ("8.6.1", "fp32", 1, set()),
        ("8.6.1", "fp16", 1, {"FP16"}),
        ("8.6.1", "int8", 1, {"INT8"}),
        ("8.6.1", None, 1, set()),
        ("10.3.0", "fp16", 2, set()),
        ("11.4.0.106", "bf16", 2, set()),
    ],
)
def test_precision_is_the_graphs(install, tmp_path, version, precision, network_flags, builder_flags):
    module, _ = install(version)
    path = save_convs(tmp_path / "x.onnx", 1, metadata=precision and {"precision": precision})
    tensorrt.load(path, 1, 1)
    assert module.built == [(network_flags, builder_flags)]


def test_a_precision_that_this_tensorrt_lacks_is_never_fp32(install, tmp_path):
    module, _ = install("8.6.1")
    path = save_convs(tmp_path / "x.onnx", 1, metadata={"precision": "bf16"})
    with pytest.raises(InputError, match=r"x\.onnx: is bf16, which TensorRT 8\.6\.1 cannot run; export it as fp16"):
        tensorrt.load(path, 1, 1)
    assert module.built == []


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("build", "TensorRT cannot build an engine of it (no kernel)"),
        ("deserialize", "TensorRT cannot run its engine (no reason given)"),
        ("execute", "TensorRT could not run it"),
        ("type", "has an input or output of type BF16"),
    ],
)
def test_failures_name_the_file_and_the_reason(install, run, onnx_folder, broken, message):
    install(broken=broken)
    path = onnx_folder / "deep.onnx"
    code, out, err = run("bench", path)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {path}: {message}") and err.count("\n") == 1


def test_a_network_that_does_not_parse(install, tmp_path):
    install()
    (tmp_path / "empty.onnx").touch()
    with pytest.raises(InputError, match=r"not an ONNX network that TensorRT 10\.3\.0 parses \(bad node\)"):
        tensorrt.load(tmp_path / "empty.onnx", 1, 1)


def test_without_a_working_builder(install):
    install(broken="Builder")
    obstacle = "TensorRT cannot start its Builder (CUDA error 35), so check that nvidia-smi works"
    assert tensorrt.obstacle() == obstacle
    assert choose("auto") == (onnxruntime, f"because {obstacle}")
    with pytest.raises(InputError, match=r"--runtime tensorrt: TensorRT cannot start its Builder .*; it needs"):
        choose("tensorrt")


def test_without_a_gpu(install, monkeypatch):
    install()

    def missing():
        raise InputError("no GPU was found (cudaErrorNoDevice)")

    monkeypatch.setattr(cuda, "available", missing)
    assert tensorrt.obstacle() == "no GPU was found (cudaErrorNoDevice)"


def test_a_broken_tensorrt_is_not_called_missing(monkeypatch, tmp_path):
    (tmp_path / "tensorrt.py").write_text("import ctypes; ctypes.CDLL('libnvinfer.so.99')")
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    assert tensorrt.obstacle().startswith("TensorRT cannot be imported (libnvinfer.so.99: ")
