import time
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from layer_folding import bench_results
from layer_folding.errors import CheckError
from layer_folding.trt_bench import printing, runtimes
from layer_folding.trt_bench.measuring import Bench, measure
from layer_folding.trt_bench.runtimes import Options, onnxruntime
from tests.trt_bench.conftest import CLASSES, evalset, save, save_convs, save_linear

pytestmark = pytest.mark.alone  # what is asserted here is time


def bench(paths, runtime, threads=1, batches=(1,), **what):
    measured = measure(paths, runtime, "", Options(batches, threads), Bench(**what))
    assert len(measured.traces) == len(measured.result.models)
    return measured.result


@pytest.fixture(scope="module")
def result(onnx_folder):
    return bench([onnx_folder / "deep.onnx", onnx_folder / "shallow.onnx"], onnxruntime, seconds=0.2)


def test_fewer_convolutions_are_faster(result):
    assert result.verdict == "faster"
    assert result.speedup > 1.5
    deep, shallow = (entry.latency_ms.median for entry in result.models)
    assert result.speedup == pytest.approx(deep / shallow, rel=0.5)


def test_more_convolutions_are_slower(onnx_folder):
    result = bench([onnx_folder / "shallow.onnx", onnx_folder / "deep.onnx"], onnxruntime, seconds=0.1)
    assert result.verdict == "slower"


def test_a_result_survives_its_file(result, tmp_path):
    bench_results.save(tmp_path / "bench.json", result)
    assert bench_results.load(tmp_path / "bench.json") == result
    assert [(entry.name, entry.precision, entry.batch) for entry in result.models] == [
        ("deep", "fp32", 1),
        ("shallow", "unknown", 1),
    ]
    assert result.models[0].network.depth == 9
    assert result.settings.threads == 1 and result.models[0].input_shape == (1, 3, 12, 12)
    assert result.models[0].parts_ms is None and result.models[0].energy is None


def test_a_list_of_batches_is_timed_and_compared_for_each(onnx_folder):
    paths = [onnx_folder / "deep.onnx", onnx_folder / "shallow.onnx"]
    result = bench(paths, onnxruntime, seconds=0.05, batches=(1, 3))
    assert [(entry.name, entry.batch) for entry in result.models] == [
        ("deep", 1),
        ("shallow", 1),
        ("deep", 3),
        ("shallow", 3),
    ]
    assert [entry.batch for entry in result.comparisons] == [1, 3]
    assert "\nbatch 1, " in printing.table(result) and "\nbatch 3, " in printing.table(result)


def test_profile_names_the_modules_of_the_export(onnx_folder):
    result = bench([onnx_folder / "deep.onnx"], onnxruntime, seconds=0.02, profile=True)
    profile = result.models[0].profile
    assert profile.runs == 50
    modules = " ".join(profile.modules)
    assert all(f"block.{index}.conv + block.{index}.act" in modules for index in range(8)), modules
    assert "fc" in profile.modules
    assert profile.modules["fc"] > 0


def test_every_candidate_is_compared_with_the_first(onnx_folder, tmp_path):
    middle = save_convs(tmp_path / "middle.onnx", 4)
    paths = [onnx_folder / "deep.onnx", middle, onnx_folder / "shallow.onnx"]
    result = bench(paths, onnxruntime, seconds=0.05)
    assert [entry.candidate for entry in result.comparisons] == ["middle", "shallow"]
    assert result.comparison == result.comparisons[-1]


def test_accuracy_is_measured_in_the_runtime(tmp_path):
    rng = np.random.default_rng(2)
    weight = rng.standard_normal((48, CLASSES), np.float32)
    arrays = evalset()
    inputs = (arrays["images"] / 255 - arrays["mean"].reshape(3, 1, 1)) / arrays["std"].reshape(3, 1, 1)
    arrays["labels"] = (inputs.reshape(len(inputs), -1) @ weight).argmax(axis=1)
    np.savez(tmp_path / "eval.npz", **arrays)
    paths = [
        save_linear(tmp_path / "right.onnx", weight, metadata={"accuracy": "0.1"}),
        save_linear(tmp_path / "wrong.onnx", -weight),
    ]
    result = bench(paths, onnxruntime, seconds=0.01, data=tmp_path / "eval.npz")
    assert [entry.accuracy for entry in result.models] == [1, 0]


def test_nan_is_a_failed_check(tmp_path):
    path = save(tmp_path / "nan.onnx", [helper.make_node("Sqrt", ["x"], ["y"])], {}, output_shape=("N", 3, 12, 12))
    with pytest.raises(CheckError, match=r"nan\.onnx: computes NaN"):
        bench([path], onnxruntime)


def test_idle_threads_of_a_network_do_not_spin(tmp_path):
    """Otherwise they would take the core away from the network that is timed next."""
    if onnxruntime.host.cores() < 2:
        pytest.skip("needs two cores")
    network = onnxruntime.load(save_convs(tmp_path / "x.onnx", 4, size=32), 1, Options(threads=2))
    network.bind(np.ones(network.input_shape, np.float32))
    network.repeat(20)
    before = time.process_time()
    time.sleep(0.1)
    assert time.process_time() - before < 0.01


@pytest.mark.parametrize(("wanted", "name"), [("auto", "TensorRT is not installed"), ("onnxruntime", "--runtime")])
def test_onnxruntime_is_chosen_for_a_reason(wanted, name, no_tensorrt):
    runtime, reason = runtimes.choose(wanted)
    assert runtime is onnxruntime
    assert reason.startswith("because ") and name in reason


def test_on_a_cpu_networks_are_loaded_several_times_while_they_are_timed(onnx_folder, monkeypatch):
    loaded, load = [], onnxruntime.load
    monkeypatch.setattr(onnxruntime, "load", lambda path, *rest: loaded.append(Path(path).stem) or load(path, *rest))
    result = bench([onnx_folder / "deep.onnx", onnx_folder / "shallow.onnx"], onnxruntime, seconds=0.03)
    loads = result.settings.loads
    assert loads > 1 and loaded == ["deep", "shallow"] * loads
    for entry in result.models:
        assert len(entry.samples_ms) == 2 * result.settings.rounds >= 2 * 10 * loads
