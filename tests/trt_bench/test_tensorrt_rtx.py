"""The TensorRT-RTX runtime, with TensorRT-RTX and CUDA played by fake_tensorrt: what differs from TensorRT."""

import numpy as np
import pytest

from layer_folding import bench_results
from layer_folding.errors import InputError
from layer_folding.trt_bench import cuda
from layer_folding.trt_bench.runtimes import Options, choose, onnxruntime
from layer_folding.trt_bench.runtimes.tensorrt import TENSORRT_RTX
from tests.trt_bench.conftest import evalset, save_convs, save_typed
from tests.trt_bench.fake_tensorrt import RTX


def kept(install, ending):
    return sorted(install.cache.glob(f"*.{ending}"))


def test_bench_from_end_to_end(install, run, onnx_folder, tmp_path):
    module, gpu = install(RTX)
    output = tmp_path / "bench.json"
    networks = [onnx_folder / "deep.onnx", onnx_folder / "shallow.onnx"]
    code, out, err = run("bench", *networks, "--batch", 1, 2, "--seconds", 0.02, "-o", output)
    assert (code, err) == (0, "")
    heading = f"TensorRT-RTX {RTX} on the GPU (fake GPU), because "
    heading += "TensorRT is not installed, and TensorRT-RTX finds a GPU"
    assert out.splitlines()[0] == heading
    result = bench_results.load(output)
    assert (result.runtime, result.device.runtime_version) == ("tensorrt-rtx", RTX)
    settings = result.settings
    assert (settings.cuda_graph, settings.kernel_specialization, settings.runtime_cache) == (True, "eager", True)
    assert result.model("shallow", 1).engine.strongly_typed
    assert (gpu.memory, gpu.pages) == ({}, 0)
    assert {config._target for _, _, config in module.built} == {"SM86"}
    assert {tuple(sorted(flag for flag in flags)) for _, flags, _ in module.built} == {("REQUIRE_USER_ALLOCATION",)}


def test_accuracy_profile_and_table_work_as_with_tensorrt(install, run, tmp_path):
    _, gpu = install(RTX)
    path = save_convs(tmp_path / "x.onnx", 1, size=4)
    np.savez(tmp_path / "eval.npz", **evalset())
    extras = ("--data", tmp_path / "eval.npz", "--export-profile", tmp_path / "profiles")
    code, out, err = run("bench", path, "--runtime", "tensorrt-rtx", "--seconds", 0.02, *extras)
    assert (code, err) == (0, "")
    assert "accuracy measured here on 70 images" in out and "block.0.conv  0.125 ms" in out
    assert (gpu.memory, gpu.pages) == ({}, 0)


def test_compiled_kernels_are_kept_between_runs(install, tmp_path):
    module, _ = install(RTX)
    path = save_convs(tmp_path / "x.onnx", 1)
    TENSORRT_RTX.load(path, 1, Options()).close()
    assert module.compiled == [] and len(kept(install, "kernels")) == 1
    module, _ = install(RTX)
    TENSORRT_RTX.load(path, 1, Options()).close()
    assert module.compiled == [b"compiled kernels"]


def test_kernels_of_another_gpu_are_compiled_anew(install, tmp_path):
    path = save_convs(tmp_path / "x.onnx", 1)
    for _ in range(2):
        module, _ = install(RTX, broken="kernels")
        TENSORRT_RTX.load(path, 1, Options()).close()
    assert module.compiled == [b"compiled kernels"]  # and it has run without them


def test_what_cannot_be_captured_runs_without_a_graph(install, tmp_path):
    install(RTX, broken="capturable")
    settings = TENSORRT_RTX.load(save_convs(tmp_path / "x.onnx", 1), 1, Options()).settings
    obstacle = "TensorRT-RTX says that it cannot be captured as a CUDA graph"
    assert (settings.cuda_graph, settings.cuda_graph_obstacle) == (False, obstacle)


def test_tensorrt_rtx_keeps_no_times_of_kernels(install, tmp_path):
    install(RTX)
    TENSORRT_RTX.load(save_convs(tmp_path / "x.onnx", 1), 1, Options()).close()
    assert kept(install, "cache") == []


def test_an_engine_that_was_built_elsewhere_is_found(install, run, tmp_path, monkeypatch):
    """`build --for` needs no GPU; its engine is the one that a machine with such a GPU looks for."""
    install(RTX)
    monkeypatch.setattr(cuda, "available", no_gpu)
    path = save_typed(tmp_path / "x.onnx", "fp16")
    code, out, err = run("build", path, "--for", "sm86,12.0")
    assert (code, err) == (0, "")
    engines = [line for line in out.splitlines() if ".plan: " in line]
    assert [line.removeprefix(f"{path}: ").partition(":")[0] for line in engines] == ["sm86", "sm120"]
    assert out.count("1 of 1 matrix product in fp16\n") == 4 and len(kept(install, "plan")) == 2
    _, gpu = install(RTX)
    assert TENSORRT_RTX.open_engine(path, Options()).built.from_cache
    gpu.compute_capability = "7.5"
    assert not TENSORRT_RTX.open_engine(save_typed(path, "fp16"), Options()).built.from_cache


def no_gpu():
    raise InputError("no GPU was found (cudaErrorNoDevice)")


def test_an_engine_of_another_version_is_built_again(install, tmp_path):
    module, _ = install(RTX)
    path = save_convs(tmp_path / "x.onnx", 1)
    TENSORRT_RTX.open_engine(path, Options())
    module, _ = install(RTX)
    module.__version__ = "1.8.0"
    assert not TENSORRT_RTX.open_engine(path, Options()).built.from_cache


def test_a_gpu_that_it_does_not_serve(install):
    _, gpu = install(RTX)
    gpu.compute_capability = "8.7"
    obstacle = "TensorRT-RTX serves GPUs of 7.5, 8.6, 12.0, and the fake GPU has 8.7"
    assert choose("auto") == (onnxruntime, f"because {obstacle}")
    with pytest.raises(InputError, match=r"--runtime tensorrt-rtx: .* has 8\.7; it needs an RTX GPU .* a Jetson has"):
        choose("tensorrt-rtx")


def test_tensorrt_comes_first(install):
    install("10.3.0")
    runtime, reason = choose("auto")
    assert (runtime.name, reason) == ("tensorrt", "because TensorRT finds a GPU")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "--for sm87",
            "--for sm87: TensorRT-RTX 1.7.1.116 builds for the compute capabilities 7.5, 8.6, 12.0; ",
        ),
        ("--for sm86 --runtime tensorrt", "--for: TensorRT builds for the GPU of this machine; give --runtime"),
        ("--for ampere", "argument --for: 'ampere' is no list of compute capabilities such as sm86,sm89; see "),
        ("--for ,", "argument --for: ',' is no list of compute capabilities such as sm86,sm89; see "),
    ],
)
def test_bad_targets_are_one_line(install, run, onnx_folder, arguments, message):
    install(RTX)
    code, out, err = run("build", onnx_folder / "shallow.onnx", *arguments.split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: {message}")


def test_without_tensorrt_rtx_it_is_one_line(run, onnx_folder, no_tensorrt):
    code, out, err = run("build", onnx_folder / "shallow.onnx", "--for", "sm86")
    assert (code, out) == (2, "")
    assert err == (
        "error: --for: TensorRT-RTX is not installed; pip install 'layer-folding[rtx]', on x86-64 Linux; a Jetson has "
        "TensorRT instead\n"
    )
