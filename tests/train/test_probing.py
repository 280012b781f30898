import csv
import json
import shutil
from pathlib import Path

import pytest
import torch

from layer_folding.command_line import run
from layer_folding.fold import checkpoints
from layer_folding.fold import commands as fold_command
from layer_folding.fold.plan.candidates import candidates
from layer_folding.latency_tables import write_table
from layer_folding.train import commands as command
from layer_folding.train import loop
from tests.fold.plan.latency_tables import table_of, with_activation

PAYING = [(f"blocks.{i}.expand.act", f"blocks.{i}.depthwise.act") for i in (3, 4)]


def call(*arguments: object) -> int:
    return run(lambda: command.main([str(argument) for argument in arguments]))


def rows(path: Path) -> dict[str, float]:
    with open(path, newline="") as file:
        header, *lines = csv.reader(file)
    assert header == ["activations", "shape", "cross entropy after 2 epochs"]
    return {names: float(value) for names, _, value in lines}


@pytest.fixture(scope="session")
def pretrained(images, tmp_path_factory) -> Path:
    """A network that knows its images, and a table by which blocks 3 and 4 pay and the others do not."""
    folder = tmp_path_factory.mktemp("probe") / "run"
    network = ("--model", "mobilenetv2-digits", "--data", images)
    assert call("pretrain", "--run", folder, *network, "--epochs", 8, "--batch", 16, "--lr", 0.02) == 0
    model, recipe = checkpoints.load(folder / "original.safetensors")
    found = candidates(model, torch.zeros(1, *recipe.input_shape))
    write_table(folder / "latency.csv", table_of(found, dict.fromkeys(PAYING, 1.5)))
    return folder


@pytest.fixture
def folder(pretrained, tmp_path) -> Path:
    return Path(shutil.copytree(pretrained, tmp_path / "run"))


def probe(folder: Path, *options: object) -> int:
    return call("probe", "--run", folder, "--epochs", 2, "--batch", 16, "--latency", folder / "latency.csv", *options)


@pytest.mark.slow
def test_only_what_pays_is_probed_and_the_plan_takes_it(folder, capsys):
    assert probe(folder) == 0
    assert "2 candidates, in cross entropy after 2 epochs" in capsys.readouterr().out
    lost = rows(folder / "importance.csv")
    assert list(lost) == [" ".join(block) for block in PAYING]
    losses = rows(folder / "probe" / "losses.csv")
    assert losses.keys() == {"", *(" ".join(sorted(block)) for block in PAYING)}
    for block in PAYING:
        assert lost[" ".join(block)] == max(0, losses[" ".join(sorted(block))] - losses[""])
    assert len(set(losses.values())) == 3
    table = ["--latency", str(folder / "latency.csv"), "--importance", str(folder / "importance.csv")]
    assert run(lambda: fold_command.main(["plan", str(folder), *table, "--budget-ms", "9.5"])) == 0
    plan = json.loads((folder / "plan.json").read_text())
    assert (plan["importance"], plan["importance_lost"]) == ("cross entropy after 2 epochs", min(lost.values()))


@pytest.mark.slow
def test_an_addition_that_pays_is_probed_too(folder):
    model, recipe = checkpoints.load(folder / "original.safetensors")
    survey = candidates(model, torch.zeros(1, *recipe.input_shape))
    twin = with_activation(survey, *PAYING[1])
    write_table(folder / "latency.csv", table_of(survey, {PAYING[1]: 1.5, twin.changes: 1.6}))
    assert probe(folder) == 0
    lost = rows(folder / "importance.csv")
    assert list(lost) == [" ".join(PAYING[1]), " ".join(twin.changes)]
    assert twin.changes == (*PAYING[1], "+blocks.4.project.bn=blocks.4.depthwise.act")
    losses = rows(folder / "probe" / "losses.csv")
    assert len(set(losses.values())) == 3
    assert lost[" ".join(twin.changes)] == max(0, losses[" ".join(sorted(twin.changes))] - losses[""])


@pytest.mark.slow
def test_interrupted_it_goes_on_and_ends_the_same(folder, monkeypatch, capsys):
    whole = Path(shutil.copytree(folder, folder.parent / "whole"))
    assert probe(whole) == 0
    epoch, done = loop._epoch, []

    def interrupted(*arguments):
        done.append(1)
        if len(done) == 4:  # the second epoch of the second training
            raise KeyboardInterrupt
        return epoch(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_epoch", interrupted)
        assert probe(folder) == 130
    first = rows(folder / "probe" / "losses.csv")
    assert list(first) == [""] and not (folder / "importance.csv").exists()
    capsys.readouterr()
    assert probe(folder) == 0
    err = capsys.readouterr().err
    assert "goes on after epoch 1 of 2" in err and "removed nothing" not in err
    assert rows(folder / "importance.csv") == rows(whole / "importance.csv")
    assert not list(folder.rglob("*.state"))
    assert probe(folder) == 0 and "probe 1/2" not in capsys.readouterr().err


@pytest.mark.slow
def test_what_is_refused(folder, capsys):
    assert probe(folder, "--epochs", 0) == 0
    capsys.readouterr()
    assert probe(folder) == 2
    assert "probe was started there with other settings (epochs was 0, is now 2)" in capsys.readouterr().err
    model, recipe = checkpoints.load(folder / "original.safetensors")
    write_table(folder / "latency.csv", table_of(candidates(model, torch.zeros(1, *recipe.input_shape)), {}))
    assert probe(folder, "--epochs", 0) == 1
    err = capsys.readouterr().err
    assert "nothing to probe, no merge is faster" in err and err.count("\n") == 1
