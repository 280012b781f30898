import pytest

from layer_folding import advice, stats
from layer_folding.bench_results import Parts
from layer_folding.bench_settings import BenchSettings
from layer_folding.device_records import DeviceRecord, JetsonRecord, WhileTimed
from layer_folding.trt_bench import printing
from tests.layer_folding.test_bench_results import example, model


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
    return Parts(*(stats.spread([value]) for value in (enqueue, 0.1, compute, 0.1)))


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [(BenchSettings(cuda_graph=False), "leave out --no-cuda-graph"), (BenchSettings(cuda_graph=True), "--batch")],
)
def test_a_gpu_that_waits_for_the_host_is_warned_of(settings, remedy):
    assert advice.enqueue_bound(model("m", [1.0]), settings) == []
    assert advice.enqueue_bound(model("m", [1.0], parts_ms=parts(0.79, 1.0)), settings) == []
    (line,) = advice.enqueue_bound(model("m", [1.0], parts_ms=parts(0.81, 1.0)), settings)
    assert line.startswith("warning: m: launching takes 0.810 ms of 1.000 ms") and remedy in line


def timed(throttled=(), clock_mhz=(1000.0, 1000.0), **device):
    return DeviceRecord(while_timed=WhileTimed(3, throttled, clock_mhz, (50.0, 60.0)), **device)


def test_throttling_is_warned_of():
    assert advice.throttling(DeviceRecord()) == advice.throttling(timed()) == []
    (line,) = advice.throttling(timed(throttled=("over-current", "power cap")))
    assert "throttled (over-current, power cap); cool it" in line
    (line,) = advice.throttling(timed(clock_mhz=(900.0, 1000.0)))
    assert "moved between 900 and 1000 MHz; fix it with nvidia-smi -lgc" in line
    (line,) = advice.throttling(timed(clock_mhz=(306.0, 1020.0), jetson=JetsonRecord(nvpmodel="15W")))
    assert "fix it with sudo jetson_clocks" in line
    assert advice.throttling(timed(clock_mhz=None)) == []


def test_the_table_ends_with_the_warnings():
    result = example(device=timed(throttled=("power cap",)))
    assert printing.table(result).splitlines()[-1].startswith("warning: the GPU was throttled")
