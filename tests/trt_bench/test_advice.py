import pytest

from tests.trt_bench.test_results import example, model
from trt_bench import advice, report


@pytest.mark.parametrize(("kind", "remedy"), [("cpu", "close other programs"), ("gpu", "jetson_clocks")])
def test_unstable_samples_are_warned_of_with_a_remedy(kind, remedy):
    assert advice.instability(model("m", [1.0, 1.02] * 15), kind) == []
    (wide,) = advice.instability(model("m", [1.0, 1.06] * 15), kind)
    assert "warning: m: samples vary by 2.9%" in wide and remedy in wide and "--seconds" in wide
    wide, drifting = advice.instability(model("m", [1.0] * 15 + [1.08] * 15), kind)
    assert "warning: m: became 8% slower while it was timed" in drifting and remedy in drifting
    wide, warming = advice.instability(model("m", [1.08] * 15 + [1.0] * 15), kind)
    assert "7% faster" in warming


def parts(enqueue, compute):
    return {"enqueue": {"p50": enqueue}, "compute": {"p50": compute}, "h2d": {"p50": 0.1}, "d2h": {"p50": 0.1}}


@pytest.mark.parametrize(
    ("settings", "remedy"), [({"cuda_graph": False}, "leave out --no-cuda-graph"), ({"cuda_graph": True}, "--batch")]
)
def test_a_gpu_that_waits_for_the_host_is_warned_of(settings, remedy):
    assert advice.enqueue_bound(model("m", [1.0]), settings) == []
    assert advice.enqueue_bound(model("m", [1.0], parts_ms=parts(0.79, 1.0)), settings) == []
    (line,) = advice.enqueue_bound(model("m", [1.0], parts_ms=parts(0.81, 1.0)), settings)
    assert line.startswith("warning: m: launching takes 0.810 ms of 1.000 ms") and remedy in line


def seen(**changes):
    return {"clock_mhz": [1000.0, 1000.0], "temperature_c": [50.0, 60.0], "throttled": [], **changes}


def test_throttling_is_warned_of():
    assert advice.throttling({"while_timed": None}) == advice.throttling({"while_timed": seen()}) == []
    (line,) = advice.throttling({"while_timed": seen(throttled=["over-current", "power cap"])})
    assert "throttled (over-current, power cap); cool it" in line
    (line,) = advice.throttling({"while_timed": seen(clock_mhz=[900.0, 1000.0])})
    assert "moved between 900 and 1000 MHz; fix it with nvidia-smi -lgc" in line
    (line,) = advice.throttling({"while_timed": seen(clock_mhz=[306.0, 1020.0]), "jetson": {"nvpmodel": "15W"}})
    assert "fix it with sudo jetson_clocks" in line
    assert advice.throttling({"while_timed": seen(clock_mhz=None)}) == []


def test_the_table_ends_with_the_warnings():
    result = example()
    result["device"]["while_timed"] = seen(throttled=["power cap"])
    assert report.table(result).splitlines()[-1].startswith("warning: the GPU was throttled")
