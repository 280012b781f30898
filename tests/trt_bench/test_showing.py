"""`show` tells what is in every kind of file, on a machine without PyTorch too."""

import csv
import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import helper

from layer_folding import bench_results, fold_results, importance_tables, latency_tables, plans, recipes
from layer_folding.fit_choices import parse_choice
from layer_folding.fold import checkpoints
from layer_folding.recipes import FitRecord, Network, Recipe
from tests.layer_folding.test_bench_results import example as bench_example
from tests.layer_folding.test_latency_tables import TABLE
from tests.layer_folding.test_plans import PLAN
from tests.trt_bench.conftest import ROOT, save, save_convs

RECIPE = Recipe(
    "folded",
    Network("layer_folding:mlp-relu", {"num_classes": 10}),
    (3, 32, 32),
    classes=("cat", "dog"),
    fitted=(FitRecord("hidden.1=1", ("hidden.0", "hidden.2"), "hidden.0_2", 0.02),),
    removed=("hidden.3",),
    kept={"hidden.5": "its merge would have 3 times the MACs"},
    hoisted=(("hidden.4", "hidden.6"),),
    folded={"hidden.4_6": ("hidden.4", "hidden.6")},
    accuracy={"original": 0.9, "folded": 0.875},
)


@pytest.fixture
def folded(tmp_path) -> Path:
    path = tmp_path / "folded.safetensors"
    checkpoints.save(path, torch.nn.Linear(4, 2), RECIPE)
    return path


def test_of_a_checkpoint_it_says_what_was_done_to_the_network(run, folded):
    code, out, err = run("show", folded)
    assert (code, err) == (0, "")
    for said in (
        f"{folded}: checkpoint",
        "network   layer_folding:mlp-relu(num_classes=10)",
        "input     3 x 32 x 32",
        "classes   cat, dog",
        "removed   1 activations: hidden.3",
        "hoisted   the padding of 1 region",
        "accuracy  original 90.00 %, folded 87.50 %",
        "tensors   2 with 10 numbers",
        "hidden.0_2 (1): in place of hidden.0, hidden.2 with hidden.1; relative error 0.02",
        "hidden.4_6: in place of hidden.4, hidden.6",
        "hidden.5: its merge would have 3 times the MACs",
    ):
        assert said in out
    _, out, _ = run("show", folded, "--csv")
    assert out.splitlines() == [
        "file,tensor,dtype,shape,numbers",
        f"{folded},bias,F32,2,2",
        f"{folded},weight,F32,2x4,8",
    ]
    [told] = json.loads(run("show", folded, "--json")[1])
    assert (told["file"], told["kind"]) == (str(folded), "checkpoint")
    assert recipes.from_json(json.dumps({"schema": recipes.SCHEMA, **told["content"]["recipe"]})) == RECIPE


def test_of_an_onnx_file_it_says_what_the_network_takes_and_costs(run, tmp_path):
    metadata = {"recipe": recipes.to_json(RECIPE), "accuracy": "0.875"}
    code, out, err = run("show", save_convs(tmp_path / "a.onnx", 2, metadata=metadata))
    assert (code, err) == (0, "")
    for said in (
        "layers      3 with weights",
        "precision   fp32",
        "opset       17",
        "inputs      x, fp32 N x 3 x 12 x 12",
    ):
        assert said in out
    assert "merged      2 layers into 1" in out and "block.1.conv/Conv" in out
    lines = run("show", tmp_path / "a.onnx", save_convs(tmp_path / "b.onnx", 1), "--csv")[1]
    rows = list(csv.DictReader(io.StringIO(lines)))
    first, second, last = "block.0.conv/Conv", "block.1.conv/Conv", "fc/MatMul"
    assert [row["layer"] for row in rows] == [first, second, last, first, last]
    assert rows[1]["weight"] == "16x16x3x3" and rows[1]["macs"] == str(16 * 16 * 9 * 144)
    [told] = json.loads(run("show", tmp_path / "b.onnx", "--json")[1])
    assert told["content"]["macs"] == 16 * 3 * 9 * 144 + 16 * 4 and told["content"]["recipe"] is None


@pytest.fixture
def results(tmp_path) -> Path:
    """A run folder with a whole file of each kind of result."""
    latency_tables.write_table(tmp_path / "latency.csv", TABLE)
    plans.write_plan(tmp_path / "plan.json", PLAN)
    fits = {parse_choice("hidden.1=1"): 0.25}
    importance = importance_tables.Importance({("hidden.1",): 0.5}, "cross entropy", fits=fits)
    importance_tables.write_importance(tmp_path / "importance.csv", importance)
    bench_results.save(tmp_path / "bench.json", bench_example())
    cost = fold_results.NetworkCost(5, 100, 1000)
    merged = fold_results.MergedLayers("a_b", ("a", "b"), ("act",), (5, 5), (1, 1), (900, 500), (90, 50), 1e-15)
    skipped = (fold_results.SkippedLayer("c", "it is the last"),)
    fold_results.save(
        tmp_path / "fold.json",
        fold_results.FoldRecord(
            RECIPE.network, (merged,), skipped, 1e-15, fold_results.Costs(cost, replace(cost, depth=4)), {"folded": 0.5}
        ),
    )
    return tmp_path


@pytest.mark.parametrize(
    ("name", "said", "columns"),
    [
        ("latency.csv", "latency table", "segments,input,time_ms,low_ms,high_ms,stdev_ms,visits"),
        ("latency.json", "complete    yes", "segments,input,time_ms,low_ms,high_ms,stdev_ms,visits"),
        ("plan.json", "limit      at most 1.500 ms", "layers,activations,shape,kernel,macs_before,macs_after"),
        ("importance.csv", "loses, in  cross entropy", "activations,shape,loses"),
        ("bench.json", "verdict: folded is faster", "model,batch,precision,layers,parameters,macs,accuracy,median_ms"),
        ("fold.json", "stay           1 layer: it is the last", "layer,layers,activations,kernel,stride,groups"),
    ],
)
def test_it_knows_every_kind_of_result_by_its_content(run, results, name, said, columns):
    other = results / f"renamed{Path(name).suffix}"
    if name != "latency.csv":
        (results / name).rename(other)
        name = other.name
    code, out, err = run("show", results / name)
    assert (code, err) == (0, "") and said in out
    rows = run("show", results / name, "--csv")[1].splitlines()
    assert rows[0].startswith(f"file,{columns}") and len(rows) > 1
    assert len(json.loads(run("show", results / name, "--json")[1])) == 1


def test_a_plan_within_a_loss_says_the_loss(run, results):
    bound = plans.LossBound(1.0, "points of accuracy", plans.Loss(0.5, 0.25), 4096, 1024)
    plans.write_plan(results / "plan.json", replace(PLAN, budget_ms=None, max_loss=bound))
    said = "limit      loses at most 1 points of accuracy; carried out it loses 0.5 +- 0.25, on 4096 images"
    assert said in run("show", results / "plan.json")[1]


def test_importances_are_told_the_least_first(run, results):
    rows = run("show", results / "importance.csv", "--csv")[1].splitlines()[1:]
    assert [row.partition(",")[2] for row in rows] == ["hidden.1,1,0.25", "hidden.1,merged,0.5"]


def test_a_published_table_has_no_file_beside_it(run, tmp_path):
    (tmp_path / "latency.csv").write_text("st,end,time,stdev\n0,1,0.5,0.1\n")
    out = run("show", tmp_path / "latency.csv")[1]
    assert "measured  elsewhere" in out and "0.5" in out


def test_of_a_run_folder_it_lists_the_files_and_says_which_cannot_be_read(run, results):
    (results / "plan.json").write_text('{"merges": [], "original_ms": 1}')
    (results / "report.html").touch()
    code, out, err = run("show", results)
    assert (code, err) == (0, "")
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in out.splitlines()[2:]}
    assert rows["fold.json"] == "fold result 5 => 4 layers, 1.00 k => 1.00 k MACs"
    assert rows["plan.json"].startswith("cannot be read damaged: schema is missing; plan again")
    assert rows["report.html"] == "page"
    [told] = json.loads(run("show", results, "--json")[1])
    assert [each["kind"] for each in told["content"]["files"] if each["file"] == "bench.json"] == ["bench result"]


def test_images_settings_epochs_and_weights(run, tmp_path, folded):
    images = {"images": np.zeros((3, 1, 4, 4), np.uint8), "labels": np.array([0, 1, 1])}
    normalisation = {"mean": np.zeros(1, np.float32), "std": np.ones(1, np.float32)}
    np.savez(tmp_path / "bare.npz", images=images["images"], **normalisation)
    assert "classes  no labels" in run("show", tmp_path / "bare.npz")[1]
    np.savez(tmp_path / "eval.npz", **images, **normalisation)
    assert "3 of 1 x 4 x 4, 8 bits" in run("show", tmp_path / "eval.npz")[1]
    assert run("show", tmp_path / "eval.npz", "--csv")[1].splitlines()[1:] == [
        f"{tmp_path}/eval.npz,0,1",
        f"{tmp_path}/eval.npz,1,2",
    ]
    (tmp_path / "metrics.csv").write_text("stage,epoch,accuracy,depth\npretrain,1,0.5,3\n")
    assert "pretrain" in run("show", tmp_path / "metrics.csv")[1]
    stage = {"settings": {"epochs": 2}, "versions": {"torch": "2.15.0"}, "revision": "0" * 40}
    (tmp_path / "config.json").write_text(json.dumps({"schema": 2, "stages": {"pretrain": stage}}))
    assert "pretrain  torch 2.15.0, revision 000000000000" in run("show", tmp_path / "config.json")[1]
    from safetensors.torch import save_file

    save_file({"w": torch.zeros(2, 3)}, tmp_path / "weights.safetensors")
    assert "weights.safetensors: weights" in run("show", tmp_path / "weights.safetensors")[1]


def test_tables_for_people_and_other_programs(run, tmp_path):
    (tmp_path / "sweep.csv").write_text("lambda,gates,activations_removed,depth,folded\n0.25,9,4,16,0.875\n")
    assert "sweep.csv: sweep" in run("show", tmp_path / "sweep.csv")[1]
    assert run("show", tmp_path / "sweep.csv", "--csv")[1].splitlines()[1] == f"{tmp_path}/sweep.csv,0.25,9,4,16,0.875"
    (tmp_path / "frontier.csv").write_text("asked,planned,latency_ms,fitted,depth,folded\n1.2,1.25,0.5,2,18,0.875\n")
    assert "frontier.csv: sweep" in run("show", tmp_path / "frontier.csv")[1]
    (tmp_path / "int8.csv").write_text("layer,alone,others\nconv1,0.01,0.02\n")
    assert "int8.csv: what int8 costs" in run("show", tmp_path / "int8.csv")[1]
    (tmp_path / "splits.csv").write_text('id,st,end,time,stdev,breaks\n0,0,2,1.5,0.1,"0,1,2"\n')
    assert "table of splits" in run("show", tmp_path / "splits.csv")[1]
    (tmp_path / "sweep.csv").write_text("lambda,depth\n0.25\n")
    code, _, err = run("show", tmp_path / "sweep.csv")
    assert code == 2 and "damaged: a row has 1 values, and there are 2 columns; make" in err


def test_a_layer_that_reads_quantised_values_is_int8(run, tmp_path):
    scale = {"scale": np.float32(0.1), "zero": np.int8(0), "w": np.ones((4, 3, 3, 3), np.float32)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("Conv", ["d", "w"], ["y"], "conv/Conv"),
    ]
    path = save(tmp_path / "q.onnx", nodes, {name: np.asarray(value) for name, value in scale.items()})
    assert run("show", path, "--csv")[1].splitlines()[1].split(",")[:5] == [
        path,
        "conv/Conv",
        "Conv",
        "4x3x3x3",
        "int8",
    ]
    assert "precision   int8" in run("show", path)[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nothing.bin",), "nothing.bin: no such file; give a checkpoint, an ONNX file"),
        (("text.txt",), "text.txt: is of no kind that layer-folding writes, or damaged at its beginning; give a"),
        (("other.json",), "other.json: is a JSON file of no kind that layer-folding writes; give a checkpoint"),
        (("cut.safetensors",), "cut.safetensors: not a checkpoint, or damaged (it is cut off); if a stage wrote"),
        (
            ("folded.safetensors", "table.csv", "--csv"),
            "table.csv: its kind is latency table, and that of folded.safetensors is ",
        ),
        (("settings.json",), "settings.json: settings of a run stand in a file named config.json; give"),
    ],
)
def test_what_it_cannot_show_is_one_line(run, folded, monkeypatch, words, said):
    monkeypatch.chdir(folded.parent)
    Path("text.txt").write_text("hello\n")
    Path("other.json").write_text('{"a": 1}')
    Path("settings.json").write_text('{"schema": 2, "stages": {}}')
    Path("cut.safetensors").write_bytes(folded.read_bytes()[:500])
    Path("table.csv").write_text("st,end,time,stdev\n0,1,0.5,0.1\n")
    code, out, err = run("show", *words)
    assert (code, out) == (2, "") and err.startswith(f"error: {said}") and err.count("\n") == 1


def test_it_needs_numpy_alone(folded, tmp_path):
    files = [str(folded), save_convs(tmp_path / "net.onnx", 1)]
    blocked = ("torch", "safetensors", "onnx", "matplotlib", "onnxruntime")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked}))\n"
        f"from trt_bench.commands import main; main(['show', *{files}])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and "net.onnx: ONNX network" in done.stdout
