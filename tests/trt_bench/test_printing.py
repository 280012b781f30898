from dataclasses import replace

import pytest

from layer_folding.bench_results import NetworkRecord
from layer_folding.bench_settings import BenchSettings
from layer_folding.device_records import DeviceRecord
from layer_folding.text import human
from layer_folding.trt_bench import printing
from tests.layer_folding.test_bench_results import compared, example, model


def full_result():
    slow, fast = [2.0, 2.01] * 10, [1.0, 1.01] * 10
    network = NetworkRecord(20, 270_000, 40_810_000, 0.9213, "fp32")
    return example(
        reason="because TensorRT is not installed",
        device=DeviceRecord(kind="cpu", name="Cortex", runtime_version="1.32.0"),
        settings=BenchSettings(rounds=10, threads=1, images=360),
        models=(model("original", slow, network=network), model("folded", fast, network=replace(network, depth=14))),
        comparisons=(compared("folded", slow, fast),),
    )


def test_table_says_everything_about_every_network():
    lines = printing.table(full_result()).splitlines()
    assert lines[0] == "ONNX Runtime 1.32.0 on the CPU (Cortex, 1 thread), because TensorRT is not installed"
    assert lines[1] == "batch 1, 10 interleaved rounds; accuracy as recorded at export"
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in lines if line.startswith(("original", "folded"))}
    assert rows["original"] == "20 270 k 40.8 M 92.13% 2.005 [1.990, 2.020] -"
    assert rows["folded"] == "14 270 k 40.8 M 92.13% 1.005 [0.996, 1.014] 1.995x [1.975, 2.015]"
    assert lines[-1] == "verdict: folded is faster than original: 1.995x [1.975, 2.015]"
    assert len({len(line) for line in lines[4:7]}) == 1


def test_table_needs_only_what_the_schema_requires():
    table = printing.table(example())
    assert "original - - - - 2.050 " in " ".join(table.split())
    assert "verdict: folded is faster" in table


def test_a_network_alone_has_no_verdict():
    assert "verdict" not in printing.table(example(models=(model("original", [1.0]),), comparisons=()))


def test_measured_accuracy_comes_before_the_recorded_one():
    result = full_result()
    models = tuple(replace(entry, accuracy=0.5) for entry in result.models)
    table = printing.table(replace(result, models=models))
    assert "50.00%" in table and "92.13%" not in table
    assert "accuracy measured here on 360 images" in table


@pytest.mark.parametrize(
    ("verdict", "line"),
    [
        ("slower", "verdict: folded is slower than original: "),
        ("no significant difference", "verdict: no significant difference between folded and original: "),
    ],
)
def test_verdict_lines(verdict, line):
    result = example()
    changed = replace(result.comparison, verdict=verdict)
    assert line in printing.table(replace(result, comparisons=(changed,)))


def test_gpu_heading_names_the_board():
    device = DeviceRecord(kind="gpu", name="Orin", board="NVIDIA Jetson Orin Nano", runtime_version="10.3.0")
    result = replace(
        full_result(),
        runtime="tensorrt",
        reason="because TensorRT finds a GPU",
        device=device,
        settings=BenchSettings(rounds=10),
    )
    assert printing.table(result).startswith(
        "TensorRT 10.3.0 on the GPU (Orin, NVIDIA Jetson Orin Nano), because TensorRT finds a GPU\n"
    )


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.00 k"),
        (12_340, "12.3 k"),
        (999_499, "999 k"),
        (999_500, "1.00 M"),
        (40_810_000, "40.8 M"),
        (4.56e9, "4.56 G"),
        (1.2e13, "12000 G"),
        (None, "-"),
        ("20", "-"),
    ],
)
def test_counts_for_people(count, text):
    assert human(count) == text
