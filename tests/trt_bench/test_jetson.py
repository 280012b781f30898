"""The device record and the energy of an inference, on sysfs trees of four boards (boards/*.txt: path | content)."""

from dataclasses import replace
from pathlib import Path

import pytest

from layer_folding.device_records import DeviceRecord, WhileTimed
from layer_folding.trt_bench import device, jetson, monitor
from tests.trt_bench import fake_cuda

BOARDS = Path(__file__).parent / "boards"


@pytest.fixture
def board(tmp_path):
    """Write the tree of a board: board(name) -> its root."""

    def make(name):
        root = tmp_path / name
        for line in (BOARDS / f"{name}.txt").read_text().splitlines():
            if not line.startswith("#"):
                path, _, content = line.partition(" | ")
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_text(content.replace("\\n", "\n") + "\n")
        return root

    return make


@pytest.mark.parametrize(
    ("name", "record"),
    [
        (
            "orin-nano",
            {
                "model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
                "l4t": "36.4.3",
                "jetpack": "6.2+b77",
                "nvpmodel": "MAXN_SUPER",
                "gpu_clock_mhz": (306, 1020),
                "gpu_governor": "nvhost_podgov",
                "rails": {
                    "VDD_IN": "the whole module",
                    "VDD_CPU_GPU_CV": "CPU, GPU and vision accelerators",
                    "VDD_SOC": "the rest of the chip",
                },
            },
        ),
        ("orin-nx", {"l4t": "35.4.1", "jetpack": None, "nvpmodel": "MAXN", "gpu_clock_mhz": (918, 918)}),
        ("agx-orin", {"l4t": "36.4.0", "jetpack": "6.1+b123", "nvpmodel": "MODE_30W", "gpu_clock_mhz": (306, 612)}),
        ("agx-thor", {"l4t": "38.2.0", "jetpack": "7.0-b128", "nvpmodel": "120W", "gpu_clock_mhz": (1575, 1575)}),
    ],
)
def test_record(board, name, record):
    found = jetson.describe(board(name))
    assert {key: getattr(found, key) for key in record} == record


@pytest.mark.parametrize(
    ("name", "clock_mhz", "temperature_c", "throttling", "events"),
    [
        ("orin-nano", 1020, 53.5, [], 4),
        ("orin-nx", 918, 48.812, [], 0),
        ("agx-orin", 612, 98.0, ["gpu-throttle-alert"], 0),
        ("agx-thor", 1575, 55.093, [], 0),
    ],
)
def test_sample(board, name, clock_mhz, temperature_c, throttling, events):
    sample = jetson.sample(board(name))
    assert (sample.clock_mhz, sample.temperature_c) == pytest.approx((clock_mhz, temperature_c))
    assert (list(sample.throttling), sample.overcurrent_events) == (throttling, events)


@pytest.mark.parametrize(
    ("name", "watts", "whole"),
    [
        ("orin-nano", {"VDD_IN": 9.0, "VDD_CPU_GPU_CV": 4.5, "VDD_SOC": 2.5}, ["VDD_IN"]),
        ("orin-nx", {"VDD_IN": 10.064, "VDD_CPU_GPU_CV": 5.032, "VDD_SOC": 2.0128}, ["VDD_IN"]),
        (
            "agx-orin",
            {"VDD_GPU_SOC": 8.0, "VDD_CPU_CV": 2.0, "VIN_SYS_5V0": 5.0, "VDDQ_VDD2_1V8AO": 1.0},
            ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"],
        ),
        ("agx-thor", {"VIN": 40.0, "VDD_GPU": 12.0, "VDD_CPU_SOC_MSS": 6.0, "VIN_SYS_5V0": 5.0}, ["VIN"]),
    ],
)
def test_energy_never_counts_a_rail_twice(board, name, watts, whole):
    rails = {rail.name: rail.watts for rail in jetson.rails(board(name))}
    assert {rail: read() for rail, read in rails.items()} == pytest.approx(watts)
    now = [0.0]

    def repeat(count):
        now[0] += 0.002 * count  # 2 ms an inference

    energy = monitor.energy(repeat, 10, rails, seconds=1.0, clock=lambda: now[0])
    assert list(energy.whole) == whole
    assert energy.whole_mj == pytest.approx(2 * sum(watts[name] for name in whole))
    assert energy.rails_mj == pytest.approx({rail: 2 * value for rail, value in watts.items()})
    assert 500 <= energy.inferences <= 500 + 50


def test_the_time_of_reading_the_rails_is_not_billed():
    now = [0.0]

    def repeat(count):
        now[0] += 0.0003 * count

    def read():
        now[0] += 0.0002
        return 10.0

    rails = dict.fromkeys(("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"), read)
    energy = monitor.energy(repeat, 10, rails, seconds=1.0, clock=lambda: now[0])
    assert energy.whole_mj == pytest.approx(3 * 10.0 * 0.3)


def test_a_rail_that_goes_away_is_left_out(board):
    rails = {"VDD_IN": lambda: None, "VDD_SOC": lambda: 2.0}
    energy = monitor.energy(lambda count: None, 1, rails, seconds=0.001)
    assert energy.whole == ("VDD_SOC",) and set(energy.rails_w) == {"VDD_SOC"}


def test_another_machine_has_no_record(tmp_path):
    assert jetson.describe(tmp_path) is None
    assert jetson.rails(tmp_path) == []
    assert monitor.energy(lambda count: None, 1, {}) is None


def test_over_current_while_timing_is_throttling(board, monkeypatch):
    root = board("orin-nano")
    read = jetson.sample
    monkeypatch.setattr(jetson, "sample", lambda: read(root))
    monkeypatch.setattr(monitor, "INTERVAL_S", 0)
    watch = monitor.Monitor(DeviceRecord(kind="gpu", jetson=jetson.describe(root)))
    watch()
    (root / "sys/class/devfreq/17000000.gpu/cur_freq").write_text("612000000\n")
    (root / "sys/class/hwmon/hwmon2/oc3_event_cnt").write_text("6\n")
    watch()
    assert watch.summary() == WhileTimed(2, ("over-current",), (612, 1020), (53.5, 53.5))


def test_the_monitor_looks_ten_times_a_second_at_most(board, monkeypatch):
    root = board("orin-nx")
    read = jetson.sample
    monkeypatch.setattr(jetson, "sample", lambda: read(root))
    watch = monitor.Monitor(DeviceRecord(kind="gpu", jetson=jetson.describe(root)))
    for _ in range(1000):
        watch()
    assert watch.summary().samples <= 2
    assert monitor.Monitor(DeviceRecord(kind="cpu")).summary() is None


def test_states_that_differ_are_named(board):
    def record(name, **changes):
        jetson_record = replace(jetson.describe(board(name)), **changes)
        return DeviceRecord(kind="gpu", name="Orin", load_average=0.1, jetson=jetson_record)

    first = record("orin-nano")
    assert device.differences(first, replace(record("orin-nano"), load_average=3.0, python="3.12")) == []
    assert device.differences(first, record("orin-nano", nvpmodel="15W")) == ["power mode: MAXN_SUPER and 15W"]
    fixed = record("orin-nano", gpu_clock_mhz=(1020.0, 1020.0))
    assert device.differences(first, fixed) == ["GPU clock limits: [306.0, 1020.0] and [1020.0, 1020.0]"]
    assert device.differences(replace(first, runtime_version="10.3"), first) == ["runtime version: 10.3 and None"]
    assert device.differences(DeviceRecord(kind="cpu"), DeviceRecord(kind="cpu", os="Linux")) == []


def test_boards_whose_gpus_have_one_name_are_told_apart(board, monkeypatch):
    """An Orin Nano and an AGX Orin both have the GPU Orin; plans and tables go by the name of the device."""
    describe, names = jetson.describe, set()
    for name in ("orin-nano", "agx-orin"):
        root = board(name)
        monkeypatch.setattr(jetson, "describe", lambda root=root: describe(root))
        monkeypatch.setattr(device, "board", lambda root=root: describe(root).model)
        record = device.gpu("10.3.0", fake_cuda.Gpu())
        assert record.name == record.board and "Orin" in record.name
        names.add(record.name)
    assert len(names) == 2
