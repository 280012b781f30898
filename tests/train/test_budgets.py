"""A sweep over speed-ups: each its own run folder, by one table and one importance."""

import csv
import shutil
from pathlib import Path

import pytest
import torch

import layer_folding as lf
from layer_folding.fit_choices import Choice
from layer_folding.fold import checkpoints
from layer_folding.fold.plan.candidates import candidates
from layer_folding.importance_tables import write_importance
from layer_folding.latency_tables import write_table
from tests.fold.plan.latency_tables import table_of
from tests.train.test_commands import call

FITS = {  # 10 ms in all, 2 ms each of these as it is
    Choice(("blocks.1.expand.act", "blocks.1.depthwise.act"), "depthwise"): 1.0,
    Choice(("blocks.3.expand.act", "blocks.3.depthwise.act"), "none"): 0.5,
}
TRAINING = "--finetune=--batch 16 --epochs 1"


@pytest.fixture(scope="module")
def planned(images, weights, tmp_path_factory) -> Path:
    """A pretrained run with a table and an importance."""
    folder = tmp_path_factory.mktemp("budgets") / "run"
    network = ("--model", "mobilenetv2-digits", "--data", images, "--weights", weights)
    assert call("pretrain", "--run", folder, *network) == 0
    model, recipe = checkpoints.load(folder / "original.safetensors")
    write_table(folder / "latency.csv", table_of(candidates(model, torch.zeros(1, *recipe.input_shape)), {}, FITS))
    write_importance(folder / "importance.csv", lf.Importance({}, "nats", fits=dict.fromkeys(FITS, 1.0)))
    return folder


@pytest.fixture
def run(planned, tmp_path, capsys) -> Path:
    capsys.readouterr()
    return Path(shutil.copytree(planned, tmp_path / "run"))


def rows(run: Path) -> list[dict[str, str]]:
    with open(run / "frontier.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_each_speedup_has_a_run_with_its_plan_and_all_are_in_one_table_and_one_picture(run, capsys):
    arguments = ("sweep", "--run", run, "--speedups", 1.3, 1.1, 1, TRAINING)
    assert call(*arguments) == 0
    out = capsys.readouterr().out
    found = rows(run)
    assert [row["asked"] for row in found] == ["1.0", "1.1", "1.3"]
    assert [row["fitted"] for row in found] == ["0", "1", "2"]
    depths = [int(row["depth"]) for row in found]
    assert depths == sorted(set(depths), reverse=True)
    for row in found[1:]:
        folder = run / f"speedup-{float(row['asked']):g}"
        folded = folder / "folded.safetensors"
        if not folded.exists():  # in the place of a block is nothing, and nothing is left to merge
            folded = folder / "hardened.safetensors"
        plan, (_, recipe) = lf.read_plan(folder / "plan.json"), checkpoints.load(folded)
        assert plan.speedup >= float(row["asked"]) and row["planned"] == str(plan.speedup)
        assert [record.choice for record in recipe.fitted] == list(map(str, plan.choices))
        assert {name: float(row[name]) for name in recipe.accuracy} == recipe.accuracy
    assert found[0]["folded"] == found[0]["original"] and not (run / "speedup-1" / "prefold.safetensors").exists()
    assert (run / "frontier.png").read_bytes().startswith(b"\x89PNG")
    assert out.splitlines()[-1] == f"wrote {run / 'frontier.csv'} and {run / 'frontier.png'}"

    before = {path: path.stat().st_mtime_ns for path in run.glob("speedup-*/*")}
    assert call(*arguments) == 0  # what is done is not repeated
    assert {path: path.stat().st_mtime_ns for path in run.glob("speedup-*/*")} == before
    assert capsys.readouterr().out == out

    write_importance(run / "importance.csv", lf.Importance({}, "nats", fits=dict(zip(FITS, (0.5, 3.0), strict=True))))
    assert call(*arguments) == 2
    assert "plan.json: is another plan than" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_a_speedup_that_no_plan_has_does_not_stop_the_others(run, capsys):
    assert call("sweep", "--run", run, "--speedups", 9, 1.1, TRAINING) == 1
    err = capsys.readouterr().err
    assert "1 of 2 points failed: speedup-9: no plan takes" in err.splitlines()[-1]
    assert [row["asked"] for row in rows(run)] == ["1.1"]


def test_bad_input_is_one_line_and_nothing_is_made(run, capsys):
    before = sorted(run.rglob("*"))
    for given, message in {
        ("--speedups", 0): "'0' is not a number above 0",
        ("--speedups", 1.1, "--lambdas", 1): "not allowed with argument",
        ("--speedups", 1.1, "--prefold=--epochs 1"): "--prefold: a sweep over speed-ups",
        ("--speedups", 1.1, "--importance", run / "none.csv"): "none.csv: no such file",
        ("--latency", run / "latency.csv"): "--latency, --importance: are for --speedups",
    }.items():
        assert call("sweep", "--run", run, *given) == 2
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1, err
    assert sorted(run.rglob("*")) == before
