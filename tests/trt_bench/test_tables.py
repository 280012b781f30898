import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from layer_folding.bench_results import NetworkRecord
from layer_folding.trt_bench import device, inference_times, onnx_header, timer
from layer_folding.trt_bench.runtimes import onnxruntime
from tests.trt_bench.conftest import save, save_convs

WHOLE = {"file": "whole.onnx", "input_shape": [3, 12, 12], "names": ["apart 0,11"]}
QUICK = ("--runtime", "onnxruntime", "--seconds", 0.02, "--bound", 10)


@pytest.fixture
def segments(tmp_path):
    """A folder as the export writes it: four networks for six names; two of the files are the same."""
    folder = tmp_path / "segments"
    folder.mkdir()
    save_convs(folder / "whole.onnx", 12)
    save_convs(folder / "seg_0.onnx", 1)
    save_convs(folder / "seg_1.onnx", 4)
    save_convs(folder / "seg_2.onnx", 1)
    save_convs(folder / "seg_3.onnx", 2, size=8)
    write_index(
        folder,
        [
            WHOLE,
            {"file": "seg_0.onnx", "input_shape": [3, 12, 12], "names": ["10,11", "1,2"]},
            {"file": "seg_1.onnx", "input_shape": [3, 12, 12], "names": ["1,4"]},
            {"file": "seg_2.onnx", "input_shape": [3, 12, 12], "names": ["2,3"]},
            {"file": "seg_3.onnx", "input_shape": [3, 8, 8], "names": ["layer1.0.conv1"]},
        ],
    )
    return folder


def write_index(folder, entries, schema=1):
    index = {"schema": schema, "opset": 20, "batch": None, "segments": entries}
    (folder / "segments.json").write_text(json.dumps(index))


@pytest.fixture
def loads(monkeypatch):
    """The files that ONNX Runtime loads; raises KeyboardInterrupt at those in ``loads.interrupt``."""

    class Loads(list):
        interrupt = ()

    seen = Loads()
    load = onnxruntime.load

    def counting(path, *arguments):
        if path.name in seen.interrupt:
            raise KeyboardInterrupt
        seen.append(path.name)
        return load(path, *arguments)

    monkeypatch.setattr(onnxruntime, "load", counting)
    return seen


def table(path):
    with open(path, newline="") as file:
        return list(csv.reader(file))


@pytest.mark.slow
def test_rows_are_segments_in_the_order_of_the_layers(run, segments, tmp_path, loads):
    output = tmp_path / "new" / "latency.csv"
    code, out, err = run("table", segments, "-o", output, *QUICK)
    assert (code, err) == (0, "")
    assert out.startswith(f"{output}: 6 segments, 4 of them different; visited 8 times now\n")
    visited = [name for index, name in enumerate(loads) if index != 2]  # there, the company of all the others
    assert loads[2] == "whole.onnx"
    assert visited == ["whole.onnx", "seg_0.onnx", "seg_1.onnx", "seg_3.onnx"] * 2  # two visits at different times
    header, *rows = table(output)
    assert header == ["st", "end", "time", "stdev"]
    assert [row[:2] for row in rows] == [["1", "2"], ["1", "4"], ["2", "3"], ["10", "11"]]
    assert rows[0][2:] == rows[2][2:] == rows[3][2:]
    assert float(rows[1][2]) > float(rows[0][2]) > 0 and float(rows[1][3]) >= 0
    sidecar = json.loads(output.with_suffix(".json").read_text())
    assert sidecar["complete"] and sidecar["device"]["kind"] == "cpu" and sidecar["settings"]["runtime"]["threads"] == 1
    assert [(row["file"], row["names"]) for row in sidecar["segments"]] == [
        ("whole.onnx", ["apart 0,11"]),
        ("seg_0.onnx", ["10,11", "1,2", "2,3"]),
        ("seg_1.onnx", ["1,4"]),
        ("seg_3.onnx", ["layer1.0.conv1"]),
    ]
    first = sidecar["segments"][1]
    whole_ms = sidecar["segments"][0]["time"]
    parts = [np.array(visit) / beside for visit, beside in zip(first["visits_ms"], first["whole_ms"], strict=True)]
    low, high = min(map(np.min, parts)), max(map(np.max, parts))
    assert low <= first["time"] / whole_ms <= high
    assert first["ci95"][0] <= first["time"] <= first["ci95"][1]


@pytest.mark.slow
def test_interrupted_it_goes_on_where_it_stopped(run, segments, tmp_path, loads):
    output = tmp_path / "latency.csv"
    loads.interrupt = ("seg_3.onnx",)
    code, _, err = run("table", segments, "-o", output, *QUICK)
    assert (code, err) == (130, "error: interrupted; give the same command again: what was finished is kept\n")
    assert not output.exists()
    before = json.loads(output.with_suffix(".json").read_text())
    assert not before["complete"]
    loads.interrupt = ()
    loads.clear()
    code, out, _ = run("table", segments, "-o", output, *QUICK)
    assert code == 0
    assert loads == ["seg_3.onnx", "whole.onnx", "whole.onnx", "seg_0.onnx", "seg_1.onnx", "seg_3.onnx"]
    assert "visited 5 times now" in out
    after = json.loads(output.with_suffix(".json").read_text())
    assert [row["visits_ms"][:1] for row in after["segments"][:3]] == [row["visits_ms"] for row in before["segments"]]
    loads.clear()
    assert run("table", segments, "-o", output, *QUICK)[0] == 0 and not loads
    again = json.loads(output.with_suffix(".json").read_text())
    assert (again["segments"], again["settings"]) == (after["segments"], after["settings"])


@pytest.mark.slow
def test_a_new_segment_is_timed_and_the_others_are_kept(run, segments, tmp_path, loads):
    output = tmp_path / "latency.csv"
    assert run("table", segments, "-o", output, *QUICK)[0] == 0
    first = table(output)
    save_convs(segments / "seg_4.onnx", 3)
    entries = json.loads((segments / "segments.json").read_text())["segments"]
    write_index(segments, [{"file": "seg_4.onnx", "input_shape": [3, 12, 12], "names": ["4,7"]}, *entries])
    loads.clear()
    loads.interrupt = ("seg_4.onnx",)
    assert run("table", segments, "-o", output, *QUICK)[0] == 130
    loads.interrupt = ()
    assert run("table", segments, "-o", output, *QUICK)[0] == 0
    assert loads == ["seg_4.onnx", "whole.onnx", "seg_4.onnx"]
    assert [row for row in table(output) if row[:2] != ["4", "7"]] == first


@pytest.mark.slow
def test_another_device_state_is_refused_without_force(run, segments, tmp_path, monkeypatch, loads):
    output = tmp_path / "latency.csv"
    loads.interrupt = ("seg_1.onnx",)
    assert run("table", segments, "-o", output, *QUICK)[0] == 130
    loads.interrupt = ()
    monkeypatch.setattr(device, "cpu_name", lambda: "another CPU")
    code, _, err = run("table", segments, "-o", output, *QUICK)
    assert (code, err.count("\n")) == (2, 1)
    assert "was begun in another state of the device (processor: " in err and "give --force" in err
    assert run("table", segments, "-o", output, "--force", *QUICK)[0] == 0


@pytest.mark.slow
def test_the_precision_of_the_segments_is_noted_and_must_be_one(run, segments, tmp_path, monkeypatch):
    output = tmp_path / "latency.csv"
    monkeypatch.setattr(onnx_header, "read", lambda path: NetworkRecord(precision="fp16"))
    assert run("table", segments, "-o", output, *QUICK)[0] == 0
    assert json.loads(output.with_suffix(".json").read_text())["settings"]["precision"] == "fp16"
    monkeypatch.setattr(onnx_header, "read", lambda path: NetworkRecord(precision="fp32"))
    code, _, err = run("table", segments, "-o", output, *QUICK)
    assert code == 2 and "precision fp16" in err and "precision fp32" in err
    monkeypatch.setattr(onnx_header, "read", lambda path: NetworkRecord(precision=path.name))
    code, _, err = run("table", segments, "-o", output, *QUICK)
    assert code == 2 and "mixes segments in seg_0.onnx, seg_1.onnx, seg_3.onnx, whole.onnx; export" in err


@pytest.mark.slow
def test_other_settings_are_refused(run, segments, tmp_path):
    output = tmp_path / "latency.csv"
    assert run("table", segments, "-o", output, *QUICK)[0] == 0
    code, _, err = run("table", segments, "-o", output, *QUICK, "--batch", 2)
    assert code == 2
    assert "was begun with onnxruntime and batch 1, " in err and "give another -o, or remove it" in err


@pytest.mark.slow
def test_a_noisy_segment_is_repeated_and_named(run, segments, tmp_path):
    output = tmp_path / "latency.csv"
    code, out, _ = run(
        *("table", segments, "-o", output, "--runtime", "onnxruntime"),
        *("--seconds", 0.01, "--bound", 1e-9, "--repeats", 3),
    )
    assert code == 0
    timed = json.loads(output.with_suffix(".json").read_text())["segments"]
    assert {len(row["visits_ms"]) for row in timed} == {3}
    assert (
        out.count("warning: seg_") == 3
        and "warning: whole.onnx" in out
        and "after 3 visits its interval is +-" in out
        and "--repeats" in out
    )


@pytest.mark.parametrize(
    ("speeds", "time", "visits"),
    [
        ([2.0, 2.02], 2.01, 2),
        ([3.0, 2.0, 2.02], 2.01, 3),  # a disturbed visit has the next one come
        ([2.0, 3.0, 2.02], 2.01, 3),
        ([3.0, 2.0, 4.0, 2.02], 2.01, 4),
    ],
)
def test_a_visit_is_believed_when_another_agrees(run, segments, tmp_path, monkeypatch, speeds, time, visits):
    """Each visit is steady in itself: what slows a machine down for seconds cannot be seen within one."""
    write_index(segments, [{**WHOLE, "file": "seg_0.onnx"}])
    coming = iter(speeds)
    monkeypatch.setattr(timer, "measure", lambda *_, **__: timer.Timing([[next(coming)] * 50], [], [], {}))
    output = tmp_path / "latency.csv"
    code, out, _ = run("table", segments, "-o", output, "--runtime", "onnxruntime")
    assert code == 0 and "warning: seg_0" not in out
    (row,) = json.loads(output.with_suffix(".json").read_text())["segments"]
    assert (row["time"], len(row["visits_ms"])) == (pytest.approx(time), visits)
    assert row["ci95"][1] < 2.1


def test_a_machine_that_is_slow_for_whole_visits_gives_the_same_table(run, segments, tmp_path, monkeypatch):
    """Segments are parts of the whole network, which is timed beside them."""
    costs = {"whole.onnx": 0.5, "seg_0.onnx": 0.125, "seg_1.onnx": 0.25, "seg_3.onnx": 0.1}  # ms
    visits = []
    load = onnxruntime.load

    def slower_each_time(path, *arguments):
        model = load(path, *arguments)
        visits.append(path.name)

        def repeat(count):
            slowness = 1 if visits[-1] == "whole.onnx" else len(visits)
            stamps = 1e6 * slowness * costs[path.name] * np.arange(count + 1)
            return inference_times.of_host(stamps.tolist())

        monkeypatch.setattr(model, "repeat", repeat, raising=False)
        return model

    monkeypatch.setattr(onnxruntime, "load", slower_each_time)
    output = tmp_path / "latency.csv"
    assert run("table", segments, "-o", output, *QUICK)[0] == 0
    found = json.loads(output.with_suffix(".json").read_text())["segments"]
    assert {row["file"]: row["time"] for row in found} == pytest.approx(costs)


def test_visits_that_never_agree_leave_a_wide_interval_and_a_warning(run, segments, tmp_path, monkeypatch):
    coming = iter([2.0, 3.0, 4.0, 5.0, 6.0] * 3)
    write_index(segments, [{**WHOLE, "file": "seg_0.onnx"}])
    monkeypatch.setattr(timer, "measure", lambda *_, **__: timer.Timing([[next(coming)] * 50], [], [], {}))
    output = tmp_path / "latency.csv"
    code, out, _ = run("table", segments, "-o", output, "--runtime", "onnxruntime")
    assert code == 0 and "warning: seg_0.onnx: after 5 visits" in out
    low, high = json.loads(output.with_suffix(".json").read_text())["segments"][0]["ci95"]
    assert high - low > 1


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="needs Linux's scheduler statistics")
@pytest.mark.slow
def test_other_work_on_the_core_is_named(run, segments, tmp_path):
    """Visits that are slowed down alike agree with each other."""
    cores = os.sched_getaffinity(0)
    command = [sys.executable, "-c", "while True: pass"]
    os.sched_setaffinity(0, {min(cores)})
    try:
        with subprocess.Popen(command) as other:
            _, out, _ = run("table", segments, "-o", tmp_path / "latency.csv", *QUICK)
            other.kill()
    finally:
        os.sched_setaffinity(0, cores)
    assert "warning: other work took the core for " in out and "latency.csv and its .json" in out


@pytest.mark.parametrize(
    ("entries", "schema", "message"),
    [
        ([], 1, "no segments"),
        ([WHOLE], 2, "is of schema 2"),
        ([{**WHOLE, "file": "../seg_0.onnx"}], 1, "file is '../seg_0.onnx'"),
        ([{"file": "seg_0.onnx", "input_shape": [3, 12, 12]}], 1, "segments[0].names is missing"),
        ([{**WHOLE, "input_shape": [3, -12]}], 1, "segments[0].input_shape[1] is -12"),
        ([{**WHOLE, "file": "gone.onnx"}], 1, "gone.onnx: no such file"),
        ([{**WHOLE, "names": ["0,1", "0,1"]}], 1, "has segment 0,1 twice"),
        ([{**WHOLE, "names": ["0,1", "apart 3,7"]}], 1, "has no segment of the whole network, apart 0,N"),
    ],
)
def test_bad_folders_are_one_line(run, segments, tmp_path, entries, schema, message):
    write_index(segments, entries, schema)
    code, out, err = run("table", segments, "-o", tmp_path / "latency.csv", *QUICK)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err and "export the segments again" in err


def test_a_sidecar_that_is_none_of_ours_is_kept(run, segments, tmp_path):
    (tmp_path / "latency.json").write_text('{"mine": 1}')
    code, _, err = run("table", segments, "-o", tmp_path / "latency.csv", *QUICK)
    assert code == 2 and "latency.json: damaged: schema is missing; give another -o" in err
    assert (tmp_path / "latency.json").read_text() == '{"mine": 1}'


def test_nan_is_a_failed_check(run, segments, tmp_path):
    save(segments / "nan.onnx", [helper.make_node("Sqrt", ["x"], ["y"])], {}, output_shape=("N", 3, 12, 12))
    write_index(segments, [{"file": "nan.onnx", "input_shape": [3, 12, 12], "names": ["apart 0,1"]}])
    code, _, err = run("table", segments, "-o", tmp_path / "latency.csv", *QUICK)
    assert code == 1 and "nan.onnx: computes NaN or infinity" in err


@pytest.mark.slow
def test_on_tensorrt(install, run, segments, tmp_path):
    module, _ = install()
    output = tmp_path / "latency.csv"
    assert run("table", segments, "-o", output, "--seconds", 0.01, "--bound", 10)[0] == 0
    assert len(module.built) == 4
    assert [float(row[2]) for row in table(output)[1:]] == pytest.approx([0.265] * 4)
