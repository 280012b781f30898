import pytest

from tests.trt_bench.test_results import example, model
from trt_bench import report, stats


def full_result():
    slow, fast = [2.0, 2.01] * 10, [1.0, 1.01] * 10
    network = {"depth": 20, "parameters": 270_000, "macs": 40_810_000, "accuracy": 0.9213, "precision": "fp32"}
    return {
        **example(),
        "reason": "because TensorRT is not installed",
        "device": {"kind": "cpu", "name": "Cortex", "board": None, "runtime_version": "1.32.0"},
        "settings": {"batch": 1, "rounds": 10, "threads": 1, "images": 360},
        "models": [model("original", slow, network=network), model("folded", fast, network={**network, "depth": 14})],
        "comparison": {"baseline": "original", "candidate": "folded", **stats.compare(slow, fast)},
    }


def test_table_says_everything_about_every_network():
    lines = report.table(full_result()).splitlines()
    assert lines[0] == "ONNX Runtime 1.32.0 on the CPU (Cortex, 1 thread), because TensorRT is not installed"
    assert lines[1] == "batch 1, 10 interleaved rounds; accuracy as recorded at export"
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in lines if line.startswith(("original", "folded"))}
    assert rows["original"] == "20 270 k 40.8 M 92.13% 2.005 [1.990, 2.020] -"
    assert rows["folded"] == "14 270 k 40.8 M 92.13% 1.005 [0.996, 1.014] 1.995x [1.975, 2.015]"
    assert lines[-1] == "verdict: folded is faster than original: 1.995x [1.975, 2.015]"
    assert len({len(line) for line in lines[4:7]}) == 1


def test_table_needs_only_what_the_schema_requires():
    table = report.table(example())
    assert "original - - - - 2.050 " in " ".join(table.split())
    assert "verdict: folded is faster" in table


def test_measured_accuracy_comes_before_the_recorded_one():
    result = full_result()
    for entry in result["models"]:
        entry["accuracy"] = 0.5
    table = report.table(result)
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
    result["comparison"]["verdict"] = verdict
    assert line in report.table(result)


def test_gpu_heading_names_the_board():
    result = full_result()
    result.update(runtime="tensorrt", reason="because TensorRT finds a GPU")
    result["device"].update(kind="gpu", name="Orin", board="NVIDIA Jetson Orin Nano", runtime_version="10.3.0")
    result["settings"]["threads"] = None
    assert report.table(result).startswith(
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
    assert report.human(count) == text
