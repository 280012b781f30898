"""The TensorRT runtime from file to latency, with TensorRT and CUDA played by fake_tensorrt."""

import json
import sys

import numpy as np
import pytest

from layer_folding import bench_results
from layer_folding.errors import CheckError, InputError
from layer_folding.trt_bench import cuda, inference_times
from layer_folding.trt_bench.runtimes import Options, choose, onnxruntime
from layer_folding.trt_bench.runtimes.tensorrt import TENSORRT as tensorrt
from tests.trt_bench.conftest import CLASSES, evalset, save_convs, save_linear, save_quantised_convs, save_typed

VERSIONS = ["8.6.1", "10.3.0", "11.4.0.106"]


@pytest.mark.parametrize("version", VERSIONS)
def test_bench_from_end_to_end(install, run, onnx_folder, tmp_path, version):
    install(version)
    np.savez(tmp_path / "eval.npz", **evalset(size=12))
    networks = [onnx_folder / "deep.onnx", onnx_folder / "shallow.onnx"]
    output = tmp_path / "bench.json"
    code, out, err = run("bench", *networks, "--data", tmp_path / "eval.npz", "-o", output, "--seconds", "0.05")
    assert (code, err) == (0, "")
    assert out.startswith(f"TensorRT {version} on the GPU (fake GPU), because TensorRT finds a GPU\n")
    assert "deep: 0.0100 ms to the GPU, 0.250 ms compute, 0.0050 ms back; " in out
    result = bench_results.load(output)
    assert result.runtime == "tensorrt"
    deep = result.models[0]
    assert deep.latency_ms.median == pytest.approx(0.265)
    assert deep.parts_ms.compute.p99 == pytest.approx(0.25)
    assert deep.engine.layers_by_precision == {"fp32": 19}
    assert result.settings.cuda_graph and result.settings.threads is None
    reference = onnxruntime.load(networks[0], 1, Options()).infer
    images = np.ones((1, 3, 12, 12), np.float32)
    np.testing.assert_array_equal(tensorrt.load(networks[0], 1, Options()).infer(images), reference(images))


@pytest.mark.parametrize("graphs", [True, False])
def test_one_inference_is_copy_compute_copy_wait(install, graphs, tmp_path):
    _, gpu = install(graphs=graphs)
    network = tensorrt.load(save_linear(tmp_path / "x.onnx", np.ones((48, CLASSES), np.float32)), 5, Options((5,)))
    assert network.input_shape == (5, 3, 4, 4) and network.eval_batch == 5
    assert network.settings.cuda_graph is graphs
    assert network.settings.timing.endswith("(as trtexec --exposeDMA)")
    gpu.log.clear()
    stamps = network.repeat(3)
    assert gpu.log == ["wait", *["to_device", "execute", "to_host", "wait"] * 3]
    assert {name: inference_times.part(stamps, name).round(6).tolist() for name in ("h2d", "compute", "d2h")} == {
        "h2d": [0.01] * 3,
        "compute": [0.25] * 3,
        "d2h": [0.005] * 3,
    }
    assert (inference_times.part(stamps, "enqueue") > 0).all() and (np.diff(stamps[:, 2]) > 0).all()


def test_two_inferences_in_flight_copy_beside_each_other(install, tmp_path):
    """The second is enqueued before the first is waited for, and each step waits for the one before, not for others."""
    _, gpu = install()
    path = save_linear(tmp_path / "x.onnx", np.ones((48, CLASSES), np.float32))
    network = tensorrt.load(path, 1, Options(in_flight=2))
    assert (network.settings.in_flight, network.settings.timing[-19:]) == (2, "(trtexec's default)")
    images = np.ones((1, 3, 4, 4), np.float32)
    network.bind(images)
    gpu.log.clear()
    stamps = network.repeat(3)
    one = ["to_device", "hold", "execute", "hold", "to_host"]
    assert gpu.log == ["wait", *one, *one, "wait", *one, "wait", "wait"]
    assert inference_times.part(stamps, "compute").round(6).tolist() == [0.25] * 3
    assert (np.diff(stamps[:, 2:], axis=1) >= 0).all()
    np.testing.assert_allclose(network.infer(images), 48)
    gpu.log.clear()
    bare = tensorrt.load(path, 1, Options(in_flight=2, transfers=False))
    assert bare.settings.timing.startswith("two inferences in flight, of data that is on the GPU")
    gpu.log.clear()
    bare.repeat(3)
    assert gpu.log == ["wait", "execute", "execute", "wait", "execute", "wait", "wait"]


def test_in_flight_is_recorded_and_like_is_compared_with_like(install, run, tmp_path, onnx_folder):
    install()
    paths = [tmp_path / f"{count}.json" for count in (1, 2)]
    for count, path in zip((1, 2), paths, strict=True):
        code, out, _ = run("bench", onnx_folder / "deep.onnx", "--seconds", 0.02, "--in-flight", count, "-o", path)
        assert code == 0 and (" rounds, 2 inferences in flight" in out) == (count == 2)
        assert bench_results.load(path).settings.in_flight == count
    code, _, err = run("show", *paths)
    assert code == 2 and "in the same way (inferences in flight: 1 and 2); measure both alike, or give --force" in err


def test_what_is_switched_off_is_not_done_and_recorded(install, tmp_path):
    _, gpu = install()
    options = Options(cuda_graph=False, transfers=False, spin_wait=True)
    network = tensorrt.load(save_linear(tmp_path / "x.onnx", np.ones((48, CLASSES), np.float32)), 1, options)
    settings = {name: getattr(network.settings, name) for name in ("cuda_graph", "transfers", "spin_wait")}
    assert settings == {"cuda_graph": False, "transfers": False, "spin_wait": True}
    assert network.settings.timing.endswith("(as trtexec --exposeDMA --noDataTransfers)")
    network.bind(np.ones((1, 3, 4, 4), np.float32))
    gpu.log.clear()
    assert inference_times.latency(network.repeat(2)).round(6).tolist() == [0.25] * 2
    assert "to_device" not in gpu.log and "to_host" not in gpu.log and "capture" not in gpu.log
    np.testing.assert_allclose(network.infer(np.ones((1, 3, 4, 4), np.float32)), 48)


def test_a_list_of_batches_is_one_engine_with_a_profile_for_each(install, run, tmp_path, onnx_folder):
    module, _ = install()
    output = tmp_path / "bench.json"
    code, out, _ = run("bench", onnx_folder / "shallow.onnx", "--batch", 1, 8, 4, "--seconds", 0.02, "-o", output)
    assert code == 0
    assert [line.split(",")[0] for line in out.splitlines() if line.startswith("batch")] == [
        "batch 1",
        "batch 8",
        "batch 4",
    ]
    assert [(m.batch, m.input_shape[0]) for m in bench_results.load(output).models] == [(1, 1), (8, 8), (4, 4)]
    (built,) = module.built
    assert [profile._shapes[0][0] for profile in built[2]._profiles] == [1, 8, 4]


def test_a_network_gives_all_its_memory_back(install, run, tmp_path, onnx_folder):
    _, gpu = install()
    network = tensorrt.load(save_linear(tmp_path / "x.onnx", np.ones((48, CLASSES), np.float32)), 1, Options())
    network.bind(np.ones((1, 3, 4, 4), np.float32))
    assert network.profile(2)[0] and len(gpu.memory) == gpu.pages == 2  # the profile's own buffers have gone
    network.close()
    assert (gpu.memory, gpu.pages, gpu.log[-1]) == ({}, 0, "release")
    code, _, _ = run(
        "bench", onnx_folder / "deep.onnx", onnx_folder / "shallow.onnx", "--batch", 1, 2, "--seconds", 0.02
    )
    assert (code, gpu.memory, gpu.pages, gpu.streams) == (0, {}, 0, 1)


@pytest.mark.parametrize("version", VERSIONS)
def test_several_contexts_share_an_optimisation_profile(install, tmp_path, version):
    """TensorRT 8.6 lets them only where the engine was built so."""
    install(version)
    path = save_linear(tmp_path / "x.onnx", np.ones((48, CLASSES), np.float32))
    first, second = tensorrt.load(path, 1, Options()), tensorrt.load(path, 1, Options())
    images = np.ones((1, 3, 4, 4), np.float32)
    np.testing.assert_array_equal(first.infer(images), second.infer(images))
    assert first.profile(1)


def test_a_batch_that_tensorrt_refuses_is_one_line(install, monkeypatch, tmp_path):
    module, _ = install()
    monkeypatch.setattr(module.IExecutionContext, "set_input_shape", lambda self, name, shape: False)
    path = save_linear(tmp_path / "x.onnx", np.ones((48, CLASSES), np.float32))
    with pytest.raises(InputError, match=r"x\.onnx: TensorRT does not take the input \[1, 3, 4, 4\] \("):
        tensorrt.load(path, 1, Options())


@pytest.mark.parametrize("version", VERSIONS)
def test_an_output_whose_size_depends_on_the_values_is_one_line(install, run, monkeypatch, onnx_folder, version):
    module, gpu = install(version)
    path = onnx_folder / "shallow.onnx"
    shape = module.IExecutionContext.get_tensor_shape
    monkeypatch.setattr(
        module.IExecutionContext, "get_tensor_shape", lambda self, name: (-1, 4) if name == "y" else shape(self, name)
    )
    code, out, err = run("bench", path)
    assert (code, out) == (2, "")
    assert err == f"error: {path}: the size [-1, 4] of y depends on the values in it; cut the network off before\n"
    assert (gpu.memory, gpu.pages) == ({}, 0)


@pytest.mark.parametrize(
    ("kind", "name", "answer", "message"),
    [
        ("IExecutionContext", "set_tensor_address", False, "TensorRT does not take the memory of x"),
        ("IBuilderConfig", "add_optimization_profile", -1, "TensorRT refuses its batch size"),
    ],
)
def test_what_tensorrt_refuses_is_not_overlooked(install, run, monkeypatch, onnx_folder, kind, name, answer, message):
    module, gpu = install()
    monkeypatch.setattr(getattr(module, kind), name, lambda self, *given: answer)
    code, out, err = run("bench", onnx_folder / "shallow.onnx")
    assert (code, out, err.count("\n")) == (2, "", 1) and message in err
    assert (gpu.memory, gpu.pages) == ({}, 0)


def test_a_network_that_cannot_be_captured_runs_without_a_graph(install, run, tmp_path, onnx_folder):
    """And so do the others beside it: else the graph would be compared, and not the networks."""
    for graphs in (False, 1):  # none can be captured, or the first alone
        _, gpu = install(graphs=graphs)
        networks = [onnx_folder / "deep.onnx", onnx_folder / "shallow.onnx"]
        code, out, _ = run("bench", *networks, "--seconds", 0.02, "-o", tmp_path / "bench.json")
        assert code == 0
        obstacle = "CUDA cannot capture it as a graph (cudaErrorStreamCaptureUnsupported)"
        settings = bench_results.load(tmp_path / "bench.json").settings
        assert (settings.cuda_graph, settings.cuda_graph_obstacle) == (False, obstacle)
        assert f"warning: all networks ran without a CUDA graph: {obstacle}" in out.splitlines()
        assert (gpu.memory, gpu.pages) == ({}, 0)


@pytest.mark.parametrize(
    ("version", "precision", "typed", "builder_flags"),
    [
        ("8.6.1", "fp32", False, set()),
        ("8.6.1", "fp16", False, {"FP16"}),
        ("8.6.1", "int8", False, {"INT8"}),
        ("10.3.0", "fp16", True, set()),
        ("10.3.0", "int8", True, set()),
        ("11.4.0.106", "fp16", True, set()),
        ("11.4.0.106", "int8", True, set()),
    ],
)
def test_precision_is_the_graphs(install, tmp_path, version, precision, typed, builder_flags):
    module, _ = install(version)
    network = tensorrt.load(save_typed(tmp_path / "x.onnx", precision), 1, Options())
    ((creation_flags, flags, _),) = module.built
    assert flags == builder_flags
    wanted = module.NetworkDefinitionCreationFlag["STRONGLY_TYPED" if typed else "EXPLICIT_BATCH"]
    assert creation_flags == 1 << int(wanted)
    assert network.built.strongly_typed is typed
    assert network.built.layers_by_precision[precision] >= 1


def test_int8_with_the_rest_in_fp16_is_audited_as_int8(install, run, tmp_path):
    install("10.3.0")
    path = save_typed(tmp_path / "x.onnx", "int8", says="int8-fp16")
    code, out, _ = run("bench", path, "--seconds", 0.02, "-o", tmp_path / "bench.json")
    assert code == 0 and "; 1 of 1 matrix product in int8\n" in out
    built = bench_results.load(tmp_path / "bench.json").models[0].engine
    assert (built.precision, built.weighted_layers[0].wanted) == ("int8-fp16", 1)
    install("10.3.0", broken="precision")
    assert run("bench", path)[0] == 1


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_an_engine_without_the_asked_precision_is_an_error_and_not_kept(install, run, tmp_path, version, precision):
    install(version, broken="precision")
    path = save_typed(tmp_path / "x.onnx", precision)
    code, out, err = run("bench", path)
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {path}: is {precision}, but its engine has 0 of 1 matrix product in {precision}; ")
    assert not list(install.cache.glob("*.plan"))


@pytest.mark.parametrize("version", VERSIONS)
def test_layers_that_lost_their_precision_are_counted_and_warned_of(install, run, tmp_path, version):
    install(version, broken="few")
    code, out, err = run("bench", save_quantised_convs(tmp_path / "x.onnx", 8), "--seconds", 0.02)
    assert (code, err) == (0, "")
    assert "\nx: layers: " in out and "; 1 of 8 convolutions in int8\n" in out
    assert "warning: x: 1 of 8 convolutions run in int8, and the file has 8 in it; " in out


def test_a_file_that_says_fp16_and_is_not_is_an_error(install, tmp_path):
    install("10.3.0")
    with pytest.raises(CheckError, match=r"is fp16, but TensorRT's parser finds 0 of 1 matrix product in fp16"):
        tensorrt.load(save_typed(tmp_path / "x.onnx", "fp32", says="fp16"), 1, Options())


def test_a_precision_that_this_tensorrt_lacks_is_never_fp32(install, tmp_path):
    module, _ = install("8.6.1")
    path = save_convs(tmp_path / "x.onnx", 1, metadata={"precision": "bf16"})
    with pytest.raises(InputError, match=r"x\.onnx: TensorRT 8\.6\.1 cannot build bf16; export it as fp16"):
        tensorrt.load(path, 1, Options())
    assert module.built == []


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("build", "TensorRT cannot build an engine of it (no kernel)"),
        ("deserialize", "TensorRT cannot run its engine (not a plan of this version)"),
        ("context", "TensorRT cannot run its engine (no reason given)"),
        ("execute", "TensorRT could not run it"),
        ("type", "has an input or output of type INT32"),
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
    with pytest.raises(InputError, match=r"TensorRT 10\.3\.0 parses \(Conv a/Conv: UNSUPPORTED_NODE: \(false\)\)"):
        tensorrt.load(tmp_path / "empty.onnx", 1, Options())


@pytest.mark.parametrize("version", VERSIONS)
def test_layers_are_profiled_and_rolled_up_to_modules(install, run, onnx_folder, tmp_path, version):
    install(version)
    times, profiles = tmp_path / "times", tmp_path / "profiles"
    code, out, _ = run(
        *("bench", onnx_folder / "shallow.onnx", "--batch", 2, 1, "--seconds", 0.02),
        *("--export-times", times, "--export-profile", profiles),
    )
    assert code == 0
    assert "shallow by module (a second run with the profiler on, slower than the latency):" in out
    assert "block.0.conv  0.125 ms  20.0%" in out
    count, *layers = json.loads((profiles / "shallow-batch1.profile.json").read_text())
    assert count == {"count": 50}
    assert [layer["name"] for layer in layers][:2] == ["block.0.conv/Conv", "block.0.act/Relu"]
    assert layers[0]["percentage"] == pytest.approx(20) and layers[0]["timeMs"] == pytest.approx(50 * 0.125)
    inferences = json.loads((times / "shallow-batch2.times.json").read_text())
    assert len(inferences) >= 10
    assert inferences[0]["latencyMs"] == pytest.approx(0.265)


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
