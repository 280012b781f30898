"""Predicted against measured: what a plan.json said, and what came out."""

import json
from dataclasses import replace

import pytest

from layer_folding import bench_results
from layer_folding.bench_settings import BenchSettings
from layer_folding.device_records import DeviceRecord
from layer_folding.latency_tables import Conditions
from layer_folding.plans import Plan, PlannedMerge, PlanPoint, write_plan
from layer_folding.recipes import FitRecord, Network, Recipe, to_json
from layer_folding.segment_index import SegmentFile, SegmentIndex, write_index
from layer_folding.trt_bench import board, prediction, printing
from layer_folding.trt_bench.runtimes import Options, onnxruntime
from tests.layer_folding.test_bench_results import compared as compared_samples
from tests.layer_folding.test_bench_results import example, model
from tests.trt_bench.conftest import python, save_convs

ANOTHER = "folded is another network than planned"
REMOVED = ("a.relu", "b.relu", "c.relu")


def plan(**changes) -> Plan:
    """From 2 ms to 1 ms by three merges, two of them alike."""
    given = Plan(
        conditions=Conditions("onnxruntime", "EPYC", 1, "fp32"),
        original_ms=2.0,
        original_error_ms=0.01,
        activations=8,
        merges=(merge("a", 0.4, "wrong"), merge("b", 0.2, "right"), merge("c", 0.4, "wrong")),
        importance="activations",
        budget_ms=None,
        frontier=(PlanPoint(1.0, 3.0), PlanPoint(2.0, 0.0)),
    )
    return replace(given, **changes)


def under(**conditions) -> Plan:
    return plan(conditions=replace(plan().conditions, **conditions))


def removing(*names: str) -> Plan:
    return plan(merges=tuple(replace(plan().merges[0], activations=(name,), merged_ms=0.9) for name in names))


def merge(block, saves, pair) -> PlannedMerge:
    return PlannedMerge(
        layers=(f"{block}.conv1", f"{block}.conv2"),
        activations=(f"{block}.relu",),
        kernel=(5, 5),
        macs=(18, 25),
        apart=f"apart {pair}",
        merged=pair,
        apart_ms=1.0,
        merged_ms=1.0 - saves,
        error_ms=0.01,
        importance_lost=1.0,
    )


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """original.onnx and folded.onnx, a plan for them, and the segments of its merges: those of ``wrong`` are equal."""
    monkeypatch.setattr(prediction, "SECONDS", 0.1)
    save_convs(tmp_path / "original.onnx", 8, metadata={"precision": "fp32", "recipe": recipe("original")})
    save_convs(tmp_path / "folded.onnx", 4, metadata={"precision": "fp32", "recipe": recipe("folded", REMOVED)})
    (tmp_path / "segments").mkdir()
    for name, convs in (("s0", 4), ("s1", 4), ("s2", 4), ("s3", 1), ("unused", 1)):
        save_convs(tmp_path / "segments" / f"{name}.onnx", convs)
    names = {"s0": "apart wrong", "s1": "wrong", "s2": "apart right", "s3": "right", "unused": "1,2"}
    files = tuple(SegmentFile(f"{file}.onnx", (3, 12, 12), (name,)) for file, name in names.items())
    write_index(tmp_path / "segments", SegmentIndex(20, None, files))
    write_plan(tmp_path / "plan.json", plan())
    return tmp_path


def recipe(stage, removed=(), fitted=()):
    lost = {"removed": tuple(removed), "fitted": tuple(FitRecord(choice, (), "a", 0.5) for choice in fitted)}
    return to_json(Recipe(stage, Network("resnet20"), (3, 32, 32), **lost))


def measured(folder, original=2.0, folded=1.0):
    """A measurement of both networks of ``folder``, with these latencies in ms."""
    samples = {"original": [original] * 20, "folded": [folded] * 20}
    return example(
        device=DeviceRecord(kind="cpu", name="EPYC"),
        settings=BenchSettings(batches=(1,)),
        models=tuple(model(name, ms, path=str(folder / f"{name}.onnx")) for name, ms in samples.items()),
        comparisons=(compared_samples("folded", *samples.values()),),
    )


def compared(folder, result):
    """``result`` with its prediction, checked as `show` does, and what is printed."""
    given = prediction.load(str(folder / "plan.json"))
    result = replace(result, prediction=prediction.compare(given, result, onnxruntime, Options()))
    bench_results.save(folder / "bench.json", result)
    assert bench_results.load(folder / "bench.json") == result
    return result.prediction, printing.table(result)


def test_a_plan_that_keeps_its_word_takes_one_line(folder):
    found, text = compared(folder, measured(folder, folded=1.05))
    assert found.speedup == 2 and found.miss == pytest.approx(0.05)
    assert found.ci95 == pytest.approx([2 / 1.02, 2 / 0.98])
    path = folder / "plan.json"
    assert text.splitlines()[-1].startswith(f"prediction: 2.000x [1.961, 2.041] by {path}, 1.905x [")
    assert text.endswith("measured: predicted 5.0% too fast")
    assert all(row.again is None for row in found.merges)


@pytest.mark.alone
def test_a_miss_is_traced_to_the_merges_that_were_off(folder):
    found, text = compared(folder, measured(folder, folded=1.6))
    assert found.miss == pytest.approx(0.6)
    wrong, right = found.merges
    assert (wrong.layers, wrong.count) == (("a.conv1", "a.conv2"), 2)
    assert (wrong.planned, wrong.error) == (pytest.approx(0.4), pytest.approx(0.01))
    assert wrong.ci95[0] < 0.1 and abs(wrong.again) < 0.2  # its segments take the same time, the table says 40 %
    assert 0.2 < right.again < 0.6 and right.planned == pytest.approx(0.1)  # three of eight convolutions
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("warning: prediction: 2.000x"))
    assert lines[start].endswith("predicted 60.0% too fast; what was off:")
    assert lines[start + 3].startswith("a.conv1 .. a.conv2 and 1 like it") and lines[start + 3].endswith("off")
    whole = next(line for line in lines if line.startswith("the whole network"))
    assert whole.split()[-2:] == ["50.0%", "20.0%"]
    assert "measure the table again" in text


def test_without_segments_a_miss_has_its_rows_all_the_same(folder):
    (folder / "segments" / "segments.json").unlink()
    found, text = compared(folder, measured(folder, folded=1.6))
    assert [row.again for row in found.merges] == [None, None]
    assert "a.conv1 .. a.conv2 and 1 like it" in text and "40.0% +- 1.0%" in text
    assert "`make table` writes their segments beside the plan" in text


def test_an_empty_plan_is_a_prediction_too(folder):
    save_convs(folder / "folded.onnx", 4, metadata={"recipe": recipe("folded", [])})
    write_plan(folder / "plan.json", plan(merges=()))
    found, text = compared(folder, measured(folder, folded=1.0))
    assert found.miss == pytest.approx(-0.5)
    assert "predicted 50.0% too slow" in text and "+50.0%" in text


@pytest.mark.parametrize(
    ("other", "obstacle"),
    [
        (under(device="Orin"), "it is for Orin, and this was measured with EPYC"),
        (under(runtime="tensorrt"), "it is for tensorrt, and this was measured with onnxruntime"),
        (under(batch=8), "it is for batch 8, which was not measured"),
        (under(precision="fp16"), "it is for fp16, and original is fp32"),
        (removing("a.relu", "c.relu", "d.relu"), f"{ANOTHER}: it lacks b.relu and still has d.relu"),
        (removing(), f"{ANOTHER}: it lacks a.relu, b.relu, c.relu"),
        (removing(*REMOVED, "+b=b.relu"), f"{ANOTHER}: it lacks +b=b.relu"),
        (removing(*REMOVED, *"vwxyz"), f"{ANOTHER}: it still has v, w, x, 2 more"),
    ],
)
def test_a_plan_for_something_else_is_not_compared(folder, other, obstacle):
    write_plan(folder / "plan.json", other)
    found, text = compared(folder, measured(folder))
    assert found.obstacle.startswith(obstacle) and found.miss is None
    assert text.splitlines()[-1].startswith(f"prediction: {folder / 'plan.json'} is not compared: {obstacle}")


def test_a_fit_at_the_size_of_the_merge_is_as_planned_and_another_shape_is_not(folder):
    fits = [f"{name}=merged" for name in REMOVED]
    save_convs(folder / "folded.onnx", 4, metadata={"precision": "fp32", "recipe": recipe("folded", fitted=fits)})
    assert compared(folder, measured(folder))[0].obstacle is None
    fits[0] = f"{REMOVED[0]}=3"
    save_convs(folder / "folded.onnx", 4, metadata={"precision": "fp32", "recipe": recipe("folded", fitted=fits)})
    assert compared(folder, measured(folder))[0].obstacle == f"{ANOTHER}: it lacks a.relu=3 and still has a.relu"


def test_networks_that_are_not_the_planned_ones_are_not_compared(folder):
    def obstacle(result=None):
        return compared(folder, result or measured(folder))[0].obstacle

    save_convs(folder / "folded.onnx", 4)
    assert obstacle().startswith("folded does not say which activations were removed")
    save_convs(folder / "folded.onnx", 4, metadata={"recipe": '{"stage": "folded", "removed": 5}'})
    assert obstacle().startswith("folded does not say which activations were removed")
    save_convs(folder / "folded.onnx", 4, metadata={"recipe": recipe("folded", REMOVED)})
    assert obstacle() is None
    save_convs(folder / "original.onnx", 4, metadata={"recipe": recipe("folded", REMOVED)})
    assert obstacle() == "original is another network than planned: it lacks a.relu, b.relu, c.relu"
    alone = replace(measured(folder), models=measured(folder).models[:1], comparisons=())
    assert obstacle(alone) == "only one network was measured"


def test_bench_and_show_from_end_to_end(folder):
    save_convs(folder / "folded.onnx", 4, metadata={"precision": "fp32", "recipe": recipe("folded", [])})
    here = replace(plan().conditions, device=onnxruntime.device(Options()).name)
    write_plan(folder / "plan.json", plan(conditions=here, merges=(), original_error_ms=0.02))
    networks = [folder / "original.onnx", folder / "folded.onnx"]
    output = folder / "out.json"
    options = ("--plan", folder / "plan.json", "-o", output, "--runtime", "onnxruntime", "--seconds", "0.1")
    done = python("-m", "trt_bench", "bench", *networks, *options)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"prediction: 1.000x [0.990, 1.010] by {folder / 'plan.json'}, " in done.stdout
    assert json.loads(output.read_text())["prediction"]["obstacle"] is None
    assert python("-m", "trt_bench", "show", output).stdout == done.stdout


def test_a_bad_plan_is_one_line_before_anything_is_timed(run, folder):
    (folder / "plan.json").write_text("{")
    code, out, err = run("bench", folder / "original.onnx", "--plan", folder / "plan.json")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: {folder}/plan.json: damaged: ") and "plan again" in err


def test_a_board_gets_the_plan_and_the_segments_of_its_merges(run, folder, tmp_path, monkeypatch):
    job = board.job_for(["bench", *map(str, (folder / "original.onnx", folder / "folded.onnx")), "--plan",
                      str(folder / "plan.json")])  # fmt: skip
    segments = [f"in/segments/{name}" for name in ("s0.onnx", "s1.onnx", "s2.onnx", "s3.onnx", "segments.json")]
    assert sorted(job.inputs) == sorted(["in/original.onnx", "in/folded.onnx", "in/plan.json", *segments])
    for name, path in job.inputs.items():
        target = tmp_path / "board" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path / "board")
    assert job.command[-2:] == ["--plan", "in/plan.json"]
    assert len(prediction.load("in/plan.json").files) == 4
