import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from layer_folding.command_line import run
from layer_folding.fold import checkpoints
from layer_folding.fold import commands as command
from layer_folding.fold.models import build
from layer_folding.fold.plan.candidates import candidates
from layer_folding.latency_tables import Conditions, write_table
from layer_folding.plans import read_plan
from layer_folding.recipes import Network, Recipe
from tests.fold.plan.latency_tables import table_of, with_activation

SHAPE = [1, 16, 16]
ARGUMENTS = {"num_classes": 10, "in_channels": 1}
BLOCK = ("blocks.1.expand.act", "blocks.1.depthwise.act")


def call(*arguments: object) -> int:
    return run(lambda: command.main([*map(str, arguments)]))


@pytest.fixture(scope="module")
def found():
    return candidates(build("mobilenetv2-digits", 10, 1).eval(), torch.zeros(1, *SHAPE))


@pytest.fixture
def folder(tmp_path, found) -> Path:
    """A run whose table says: 10 ms in all, 2 ms each span; merged 1.5 ms in block 1, 1.75 in block 3, 3 elsewhere."""
    torch.manual_seed(0)
    recipe = Recipe("original", Network("layer_folding:mobilenetv2-digits", ARGUMENTS), tuple(SHAPE))
    checkpoints.save(tmp_path / "original.safetensors", build("mobilenetv2-digits", **ARGUMENTS), recipe)
    merged = {of_block(found, block).merge.activations: time for block, time in ((1, 1.5), (3, 1.75))}
    write_table(tmp_path / "latency.csv", table_of(found, merged))
    return tmp_path


def of_block(found, block: int):
    names = (f"blocks.{block}.expand.act", f"blocks.{block}.depthwise.act")
    return next(c for c in found.found if c.merge.activations == names)


def test_without_a_budget_everything_that_pays_is_folded_and_nothing_else(folder, found, capsys):
    assert call("plan", folder, "--latency", folder / "latency.csv") == 0
    plan = read_plan(folder / "plan.json")
    merged = {of_block(found, block).exact.segment: saves for block, saves in ((1, 0.5), (3, 0.25))}
    paying = [c for c in found.found if c.exact and c.exact.segment in merged]  # of the same shape as block 1 or 3
    assert plan.removed == tuple(name for c in paying for name in c.merge.activations)
    assert list(plan.removed) == (folder / "plan.txt").read_text().split()
    saved = sum(merged[c.exact.segment] for c in paying)
    assert plan.original_ms == 10 and plan.latency_ms == pytest.approx(10 - saved)
    assert plan.error_ms == pytest.approx(0.01 * (1 + 2 * len(paying)) ** 0.5)
    assert plan.conditions == Conditions("onnxruntime", "EPYC", 1, "fp32") and plan.network == str(folder)
    assert (folder / "plan.png").read_bytes().startswith(b"\x89PNG")
    out, err = capsys.readouterr()
    assert out.endswith(f"carry it out: make prefold fold export trt-bench RUN={folder} PLAN={folder / 'plan.txt'}\n")
    assert "expand.conv + depthwise.conv + project.conv" in out and f"{10 / (10 - saved):.3f}x" in out and not err


def test_a_budget_takes_what_loses_least(folder, found, capsys):
    losses = {c.merge.activations: 5.0 for c in found.found}
    losses[BLOCK] = 9.0
    losses[of_block(found, 3).merge.activations] = 1.0
    rows = "".join(f"{' '.join(names)},{value}\n" for names, value in losses.items())
    (folder / "importance.csv").write_text("activations,points\n" + rows)
    arguments = ("plan", folder, "--latency", folder / "latency.csv", "--importance", folder / "importance.csv")
    assert call(*arguments, "--budget-ms", "9.75") == 0
    plan = read_plan(folder / "plan.json")
    assert plan.removed == of_block(found, 3).merge.activations
    assert (plan.importance_lost, plan.importance, plan.budget_ms) == (1.0, "points", 9.75)
    assert call(*arguments, "--speedup", "1") == 0
    assert read_plan(folder / "plan.json").removed == ()
    assert "fold nothing: keep the original network, it is fast enough" in capsys.readouterr().out


@pytest.mark.slow
def test_an_addition_is_offered_where_its_loss_is_known(folder, found, capsys):
    """It costs time and saves importance; unknown to the file, or without a file, it is not in question."""
    twin = with_activation(found, *BLOCK)
    write_table(folder / "latency.csv", table_of(found, {BLOCK: 1.5, twin.changes: 1.6}))
    arguments = ("plan", folder, "--latency", folder / "latency.csv")
    assert call(*arguments) == 0
    assert not [name for name in read_plan(folder / "plan.json").removed if name.startswith("+")]
    importance = folder / "importance.csv"
    plain = "".join(f"{' '.join(c.merge.activations)},5\n" for c in found.found)
    importance.write_text(f"activations,points\n{plain}")
    arguments = (*arguments, "--importance", importance, "--budget-ms", "9.6")
    assert call(*arguments) == 0 and len(read_plan(folder / "plan.json").removed) == 2
    importance.write_text(f"activations,points\n{plain}{' '.join(twin.changes)},1\n")
    capsys.readouterr()
    assert call(*arguments) == 0
    plan = read_plan(folder / "plan.json")
    assert list(plan.removed) == list(twin.changes) == (folder / "plan.txt").read_text().split()
    assert plan.importance_lost == 1 and plan.latency_ms == pytest.approx(9.6)
    out, err = capsys.readouterr()
    assert "project.conv + activation" in out and not err
    assert out.split("planned")[1].split()[0] == str(found.activations - 1)


@pytest.mark.slow
def test_no_plan_is_fast_enough(folder, capsys):
    arguments = ("plan", folder, "--latency", folder / "latency.csv")
    assert call(*arguments, "--budget-ms", "1") == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "the fastest takes" in err
    assert not (folder / "plan.json").exists()
    remedy = err.split("give a budget of ")[1].split()[0]
    assert call(*arguments, "--budget-ms", remedy) == 0


@pytest.mark.slow
def test_a_saving_within_its_uncertainty_does_not_count(folder, capsys):
    document = json.loads((folder / "latency.json").read_text())
    for entry in document["segments"]:
        entry["ci95"] = [entry["time"] - 1, entry["time"] + 1]
    (folder / "latency.json").write_text(json.dumps(document))
    assert call("plan", folder, "--latency", folder / "latency.csv") == 0
    assert read_plan(folder / "plan.json").removed == () and (folder / "plan.txt").read_text() == ""
    assert "fold nothing: keep the original network, nothing is faster" in capsys.readouterr().out


def damage(folder: Path, change) -> None:
    document = json.loads((folder / "latency.json").read_text())
    change(document)
    (folder / "latency.json").write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["segments"].pop(0), "segment apart 0,"),
        (lambda d: d["segments"][0].update(input_shape=[1, 3, 224, 224]), "give the table of this network"),
        (lambda d: d["segments"][0].update(time=-1.0), "damaged"),
        (lambda d: d["segments"][0].update(ci95=[0.0, float("nan")]), "damaged"),
        (lambda d: d["settings"].pop("precision"), "damaged: settings.precision is missing"),
        (lambda d: d.update(complete=False), "not all segments are measured yet"),
        (lambda d: d.pop("segments"), "damaged"),
        (lambda d: [entry.update(time=7.0) for entry in d["segments"]], "is not that of"),
    ],
)
def test_tables_that_do_not_fit_are_refused(folder, capsys, change, message):
    damage(folder, change)
    assert call("plan", folder, "--latency", folder / "latency.csv") == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and message in err
    assert not (folder / "plan.json").exists()


def test_bad_arguments(folder, capsys):
    table = ("--latency", folder / "latency.csv")
    assert call("plan", *table) == 2
    assert call("plan", "torchvision.models:resnet18", *table, "-o", folder) == 2
    assert call("plan", folder / "original.safetensors", *table) == 2
    assert call("plan", folder, *table, "--budget-ms", "-1") == 2
    assert call("plan", folder, *table, "--device", "Orin") == 2
    assert call("plan", folder, *table, "--batch", 8) == 2
    assert call("plan", folder, *table, "--precision", "fp16") == 2
    assert call("plan", folder, *table, "--importance", folder / "none.csv") == 2
    (folder / "latency.json").unlink()
    assert call("plan", folder, *table) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 9 and all(line.startswith("error: ") for line in lines)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("st,end,time", "st,end,ms", "has no column time"),
        (",3.0,", ",nan,", "time is nan"),
        (",3.0,", ",-3.0,", "time is -3.0"),
        ("st,end,time,stdev\n", "", "has no column st, end, time, stdev"),
    ],
)
def test_damaged_rows_are_refused(folder, capsys, old, new, message):
    path = folder / "latency.csv"
    path.write_text(path.read_text().replace("\r", "").replace(old, new, 1))
    assert call("plan", folder, "--latency", path) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {path}") and err.count("\n") == 1 and message in err
    assert not (folder / "plan.json").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "its header is"),
        ("activations,x\na,nan\n", "a loss is nan"),
        ("activations,x\na,-1\n", "a loss is -1"),
        ("activations,x\na b,1\nb a,2\n", "twice"),
        ("activations,x\na\n", "no table"),
        ("activations,x\na,1\n", "has no row for"),
    ],
)
def test_bad_importances_are_refused(folder, capsys, text, message):
    (folder / "importance.csv").write_text(text)
    arguments = ("--latency", folder / "latency.csv", "--importance", folder / "importance.csv")
    assert call("plan", folder, *arguments) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and message in err


@pytest.mark.slow
def test_a_plan_for_a_prefolded_run_goes_to_another_folder(folder, capsys):
    (folder / "prefold.safetensors").touch()
    assert call("plan", folder, "--latency", folder / "latency.csv") == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert f"RUN={folder}-planned PLAN={folder / 'plan.txt'} WEIGHTS={folder / 'original.safetensors'}" in said


@pytest.mark.slow
def test_a_plan_within_a_measured_loss(folder, capsys):
    write_images(folder / "calib.npz", 160)
    write_images(folder / "heldout.npz", 50)
    arguments = ("plan", folder, "--latency", folder / "latency.csv", "--max-loss", 100)
    assert call(*arguments) == 0
    plan = read_plan(folder / "plan.json")
    assert plan.merges and plan.max_loss.loss.value <= plan.max_loss.most == 100
    assert (plan.max_loss.unit, plan.max_loss.images, plan.max_loss.fitted_images) == ("points of accuracy", 50, 160)
    out = capsys.readouterr().out
    assert out.splitlines()[-1].endswith(f"layer-folding fit {folder} --plan {folder / 'plan.json'}")
    assert call(*arguments[:-1], 0, "--unlabelled") == 0
    assert read_plan(folder / "plan.json").max_loss.unit == "nats of KL divergence"
    assert "keep the original network, no plan that was tried loses at most 0 nats" in capsys.readouterr().out


def test_a_bound_needs_images_that_were_not_fitted_on(folder, capsys):
    arguments = ("plan", folder, "--latency", folder / "latency.csv")
    write_images(folder / "calib.npz")
    for given, message in {
        ("--max-loss", 1): "heldout.npz: no such file",
        ("--max-loss", 1, "--measure"): "--measure: --max-loss measures the plans that it tries",
        ("--max-loss", 1, "--speedup", 1.1): "not allowed with argument",
        ("--unlabelled",): "--unlabelled: is for --max-loss",
        ("--held-out", "x.npz"): "--held-out: is for --max-loss",
    }.items():
        assert call(*arguments, *given) == 2
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1, err


def test_a_bound_in_points_needs_labels(folder, capsys):
    write_images(folder / "calib.npz")
    with np.load(folder / "calib.npz") as images:
        np.savez(folder / "heldout.npz", **{name: images[name] for name in ("images", "mean", "std")})
    assert call("plan", folder, "--latency", folder / "latency.csv", "--max-loss", 1) == 2
    err = capsys.readouterr().err
    assert "heldout.npz: has images without labels; give --unlabelled" in err and err.count("\n") == 1


def read_losses(folder: Path) -> dict[str, float]:
    with open(folder / "importance.csv", newline="") as file:
        return {row["activations"]: float(list(row.values())[2]) for row in csv.DictReader(file)}


@pytest.mark.slow
def test_importance_from_gates(folder, capsys):
    recipe, weights = checkpoints.read(folder / "original.safetensors")
    model = build("mobilenetv2-digits", **ARGUMENTS)
    model.load_state_dict(weights)
    recipe = replace(recipe, stage="prefold", gate="foldable", gates={BLOCK[0]: 0.75, BLOCK[1]: 1.25})
    checkpoints.save(folder / "prefold.safetensors", model, recipe)
    network = folder / "original.safetensors"
    before = network.read_bytes()
    assert call("importance", folder, "--from", "gates", "-o", network) == 2
    assert network.read_bytes() == before
    assert call("importance", folder, "--from", "gates") == 0
    losses = read_losses(folder)
    assert losses[" ".join(BLOCK)] == 0.25
    assert losses["blocks.3.expand.act blocks.3.depthwise.act"] == 2.0
    table = ("--latency", folder / "latency.csv", "--importance", folder / "importance.csv")
    assert call("plan", folder, *table, "--budget-ms", 9.6) == 0
    assert read_plan(folder / "plan.json").removed == BLOCK


def write_images(path: Path, count: int = 40, shape=SHAPE) -> None:
    rng = np.random.default_rng(0)
    half = np.full(1, 0.5, np.float32)
    images = rng.integers(0, 256, (count, *shape), np.uint8)
    np.savez(path, images=images, labels=rng.integers(0, 10, count), mean=half, std=half)


@pytest.mark.slow
def test_one_shot_importance_is_repeatable_and_leaves_the_run_alone(folder, found, capsys):
    write_images(folder / "calibration.npz")
    before = (folder / "original.safetensors").read_bytes()
    arguments = ("importance", folder, "--from", "one-shot", "--data", folder / "calibration.npz", "--images", 20)
    assert call(*arguments) == 0
    losses = read_losses(folder)
    assert set(losses) == {" ".join(c.merge.activations) for c in found.found if c.exact}
    assert all(value >= 0 for value in losses.values()) and any(losses.values())
    assert call(*arguments) == 0
    assert read_losses(folder) == losses and (folder / "original.safetensors").read_bytes() == before


@pytest.mark.slow
def test_one_shot_needs_images_of_the_network(folder, capsys):
    assert call("importance", folder, "--from", "one-shot") == 2
    write_images(folder / "small.npz", shape=(1, 8, 8))
    assert call("importance", folder, "--from", "one-shot", "--data", folder / "small.npz") == 2
    assert call("importance", folder, "--from", "gates") == 2
    assert len(capsys.readouterr().err.splitlines()) == 3
