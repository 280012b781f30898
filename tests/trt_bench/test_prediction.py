"""Predicted against measured: what a plan.json said, and what came out."""

import json

import numpy as np
import pytest

from tests.trt_bench.conftest import python, save_convs
from tests.trt_bench.test_results import model
from tests.trt_bench.test_table import write_index
from trt_bench import board, prediction, report, results, stats
from trt_bench.runtimes import Options, onnxruntime

REMOVED = ["a.relu", "b.relu"]


def plan(**changes):
    """A plan.json as `python -m fold plan` writes it: from 2 ms to 1 ms by three merges, two of them alike."""
    return {
        "schema": 1, "network": "runs/x", "device": "EPYC", "runtime": "onnxruntime", "batch": 1, "budget_ms": None,
        "latency_ms": {"original": 2.0, "planned": 1.0, "error": 0.02}, "speedup": 2.0, "importance": "activations",
        "importance_lost": 3, "removed": REMOVED,
        "merges": [merge("a", 0.4, "wrong"), merge("b", 0.2, "right"), merge("c", 0.4, "wrong")],
        **changes,
    }  # fmt: skip


def merge(block, saves, pair):
    return {
        "layers": [f"{block}.conv1", f"{block}.conv2"], "activations": [f"{block}.relu"], "kernel": [5, 5],
        "segments": {"apart": f"apart {pair}", "merged": pair}, "saves_ms": saves, "error_ms": 0.01,
        "importance_lost": 1,
    }  # fmt: skip


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
    write_index(tmp_path / "segments", [{"file": f"{file}.onnx", "names": [name]} for file, name in names.items()])
    write_plan(tmp_path)
    return tmp_path


def recipe(stage, removed=None):
    return json.dumps({"stage": stage, **({} if removed is None else {"removed": removed})})


def write_plan(folder, **changes):
    (folder / "plan.json").write_text(json.dumps(plan(**changes)))


def measured(folder, original=2.0, folded=1.0, **changes):
    """A bench.json of both networks of ``folder``, with these latencies in ms."""
    samples = {"original": [original] * 20, "folded": [folded] * 20}
    comparison = {"baseline": "original", "candidate": "folded", **stats.compare(*map(np.array, samples.values()))}
    return {
        "schema": 1,
        "runtime": "onnxruntime",
        "device": {"kind": "cpu", "name": "EPYC"},
        "settings": {"batches": [1]},
        "models": [model(name, ms, path=str(folder / f"{name}.onnx")) for name, ms in samples.items()],
        "comparison": {**comparison, "batch": 1},
        "comparisons": [{**comparison, "batch": 1}],
        **changes,
    }


def compared(folder, result):
    """``result`` with its prediction, checked as `show` does, and what is printed."""
    given = prediction.load(str(folder / "plan.json"))
    result["prediction"] = prediction.compare(given, result, onnxruntime, Options())
    results.save(folder / "bench.json", result)
    assert results.load(folder / "bench.json") == result
    return result["prediction"], report.table(result)


def test_a_plan_that_keeps_its_word_takes_one_line(folder):
    found, text = compared(folder, measured(folder, folded=1.05))
    assert found["speedup"] == 2 and found["miss"] == pytest.approx(0.05)
    assert found["ci95"] == pytest.approx([2 / 1.02, 2 / 0.98])
    path = folder / "plan.json"
    assert text.splitlines()[-1].startswith(f"prediction: 2.000x [1.961, 2.041] by {path}, 1.905x [")
    assert text.endswith("measured: predicted 5.0% too fast")
    assert all(row["again"] is None for row in found["merges"])


def test_a_miss_is_traced_to_the_merges_that_were_off(folder):
    found, text = compared(folder, measured(folder, folded=1.6))
    assert found["miss"] == pytest.approx(0.6)
    wrong, right = found["merges"]
    assert (wrong["layers"], wrong["count"]) == (["a.conv1", "a.conv2"], 2)
    assert (wrong["planned"], wrong["error"]) == (pytest.approx(0.4), pytest.approx(0.01))
    assert wrong["ci95"][0] < 0.1 and abs(wrong["again"]) < 0.2  # its segments take the same time, the table says 40 %
    assert 0.2 < right["again"] < 0.6 and right["planned"] == pytest.approx(0.1)  # three of eight convolutions
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
    assert [row["again"] for row in found["merges"]] == [None, None]
    assert "a.conv1 .. a.conv2 and 1 like it" in text and "40.0% +- 1.0%" in text
    assert "`make table` writes their segments beside the plan" in text


def test_an_empty_plan_is_a_prediction_too(folder):
    save_convs(folder / "folded.onnx", 4, metadata={"recipe": recipe("folded", [])})
    write_plan(folder, removed=[], merges=[], latency_ms={"original": 2.0, "planned": 2.0, "error": 0.02})
    found, text = compared(folder, measured(folder, folded=1.0))
    assert found["miss"] == pytest.approx(-0.5)
    assert "predicted 50.0% too slow" in text and "+50.0%" in text


@pytest.mark.parametrize(
    ("changes", "obstacle"),
    [
        ({"device": "Orin"}, "it is for Orin, and this was measured with EPYC"),
        ({"runtime": "tensorrt"}, "it is for tensorrt, and this was measured with onnxruntime"),
        ({"batch": 8}, "it is for batch 8, which was not measured"),
        ({"precision": "fp16"}, "it is for fp16, and original is fp32"),
        (
            {"removed": ["a.relu", "c.relu"]},
            "folded is another network than planned: it lacks b.relu and still has c.r",
        ),
        ({"removed": []}, "folded is another network than planned: it lacks a.relu, b.relu"),
        ({"removed": [*REMOVED, "+b=b.relu"]}, "folded is another network than planned: it lacks +b=b.relu"),
        ({"removed": [*REMOVED, *"vwxyz"]}, "folded is another network than planned: it still has v, w, x, 2 more"),
    ],
)
def test_a_plan_for_something_else_is_not_compared(folder, changes, obstacle):
    write_plan(folder, **changes)
    found, text = compared(folder, measured(folder))
    assert found["obstacle"].startswith(obstacle) and "miss" not in found
    assert text.splitlines()[-1].startswith(f"prediction: {folder / 'plan.json'} is not compared: {obstacle}")


def test_networks_that_are_not_the_planned_ones_are_not_compared(folder):
    def obstacle(result=None):
        return compared(folder, result or measured(folder))[0]["obstacle"]

    save_convs(folder / "folded.onnx", 4)
    assert obstacle().startswith("folded does not say which activations were removed")
    save_convs(folder / "folded.onnx", 4, metadata={"recipe": '{"stage": "folded", "removed": 5}'})
    assert obstacle().startswith("folded does not say which activations were removed")
    save_convs(folder / "folded.onnx", 4, metadata={"recipe": recipe("folded", REMOVED)})
    assert obstacle() is None
    save_convs(folder / "original.onnx", 4, metadata={"recipe": recipe("folded", REMOVED)})
    assert obstacle().startswith("original is another network than planned: it lacks a.relu, b.relu")
    alone = {**measured(folder), "comparison": None, "comparisons": []}
    alone["models"] = alone["models"][:1]
    assert obstacle(alone) == "only one network was measured"


def test_bench_and_show_from_end_to_end(folder):
    write_plan(folder, device=onnxruntime.device(Options())["name"], merges=[])
    networks = [folder / "original.onnx", folder / "folded.onnx"]
    output = folder / "out.json"
    options = ("--plan", folder / "plan.json", "-o", output, "--runtime", "onnxruntime", "--seconds", "0.1")
    done = python("-m", "trt_bench", "bench", *networks, *options)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"prediction: 2.000x [1.961, 2.041] by {folder / 'plan.json'}, " in done.stdout
    assert json.loads(output.read_text())["prediction"]["obstacle"] is None
    assert python("-m", "trt_bench", "show", output).stdout == done.stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file; `python -m fold plan` writes it"),
        ("{", "no plan.json of schema 1: Expecting"),
        ("[]", "no plan.json of schema 1: list indices"),
        (json.dumps(plan(schema=2)), "no plan.json of schema 1: schema is 2; plan again, `make plan`"),
        (json.dumps(plan(latency_ms={"original": 1, "planned": 0, "error": 0})), "a network that takes no time"),
        (json.dumps(plan(merges=[merge("a", -1, "x")])), "-1 is no time"),
        (json.dumps({key: value for key, value in plan().items() if key != "removed"}), "lacks 'removed'"),
    ],
)
def test_a_bad_plan_is_one_line_before_anything_is_timed(run, folder, text, message):
    (folder / "plan.json").unlink()
    if text is not None:
        (folder / "plan.json").write_text(text)
    code, out, err = run("bench", folder / "original.onnx", "--plan", folder / "plan.json")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: --plan {folder}/plan.json: ") and message in err


def test_a_board_gets_the_plan_and_the_segments_of_its_merges(run, folder, tmp_path, monkeypatch):
    job = board.plan(["bench", *map(str, (folder / "original.onnx", folder / "folded.onnx")), "--plan",
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
