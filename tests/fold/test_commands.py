import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from layer_folding.command_line import run
from layer_folding.fold import checkpoints, hoist_padding, run_folding
from layer_folding.fold import commands as command
from layer_folding.fold.graph.changes import remove
from layer_folding.fold.graph.tracing import trace
from layer_folding.fold.models import build
from layer_folding.recipes import Network, Recipe

SHAPE = [1, 16, 16]
EXAMPLE = torch.zeros(1, *SHAPE)


def call(*arguments: object) -> int:
    return run(lambda: command.main([str(argument) for argument in arguments]))


def write_run(folder: Path, removed: list[str]) -> Path:
    torch.manual_seed(0)
    model = remove(trace(build("mobilenetv2-digits", 10, 1), EXAMPLE), removed)
    model, hoisted = hoist_padding(model, EXAMPLE)
    recipe = Recipe(
        "hardened",
        Network("layer_folding:mobilenetv2-digits", {"num_classes": 10, "in_channels": 1}),
        tuple(SHAPE),
        removed=tuple(removed),
        hoisted=tuple(region.layers for region in hoisted),
        accuracy={"hardened": 0.5},
    )
    checkpoints.save(folder / "hardened.safetensors", model, recipe)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, *SHAPE), np.uint8)
    half = np.full(1, 0.5, np.float32)
    np.savez(folder / "eval.npz", images=images, labels=rng.integers(0, 10, 20), mean=half, std=half)
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"), ["blocks.1.expand.act", "blocks.1.depthwise.act"])


@pytest.fixture
def folder(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_fold_writes_network_and_report(folder, capsys):
    assert call("fold", folder) == 0
    out = capsys.readouterr().out
    assert "blocks.1  expand.conv + depthwise.conv + project.conv  3x3" in out
    report = json.loads((folder / "fold.json").read_text())
    assert report["cost"]["original"]["depth"] - report["cost"]["folded"]["depth"] == 2
    before, _ = checkpoints.load(folder / "hardened.safetensors")
    after, recipe = checkpoints.load(folder / "folded.safetensors")
    x = torch.randn(4, *SHAPE)
    torch.testing.assert_close(after(x), before(x), rtol=1e-4, atol=1e-5)
    assert recipe.accuracy["folded"] == report["accuracy"]["folded"]


def test_folding_twice_gives_the_same_files(folder):
    assert call("fold", folder) == 0
    first = [(folder / name).read_bytes() for name in ("folded.safetensors", "fold.json")]
    assert call("fold", folder) == 0
    assert [(folder / name).read_bytes() for name in ("folded.safetensors", "fold.json")] == first


def test_nothing_to_fold_shows_the_reasons_and_writes_nothing(tmp_path, capsys):
    assert call("fold", write_run(tmp_path, [])) == 1
    out, err = capsys.readouterr()
    assert "blocks.1.depthwise.conv  the activation blocks.1.expand.act" in out
    assert err.count("\n") == 1 and "nothing to fold" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["eval.npz", "hardened.safetensors"]


def test_classes_that_change_fail_the_check(folder, capsys, monkeypatch):
    logits = iter([torch.eye(10).repeat(2, 1), torch.eye(10).flip(0).repeat(2, 1)])
    monkeypatch.setattr(run_folding, "_logits", lambda model, evalset: next(logits))
    assert call("fold", folder) == 1
    assert "20 images change their class" in capsys.readouterr().err
    assert not (folder / "folded.safetensors").exists()


def test_ties_at_rounding_pass(folder, capsys, monkeypatch):
    tie = torch.eye(10).repeat(2, 1)
    tie[0, :2] = torch.tensor([1.0, 1.0 - 1e-6])
    swapped = tie.clone()
    swapped[0, :2] = torch.tensor([1.0 - 1e-6, 1.0])
    logits = iter([tie, swapped])
    monkeypatch.setattr(run_folding, "_logits", lambda model, evalset: next(logits))
    assert call("fold", folder) == 0
    assert json.loads((folder / "fold.json").read_text())["agreement"] == {"images": 20, "same": 19, "ties": 1}


@pytest.mark.parametrize("which", [0, 1])
def test_scores_that_are_no_numbers_fail_the_check(folder, capsys, monkeypatch, which):
    scores = [torch.eye(10).repeat(2, 1) for _ in range(2)]
    scores[which][3, 1] = torch.nan
    left = iter(scores)
    monkeypatch.setattr(run_folding, "_logits", lambda model, evalset: next(left))
    assert call("fold", folder) == 1
    assert "network gives NaN or infinity for 1 of 20 images of eval.npz" in capsys.readouterr().err
    assert not (folder / "folded.safetensors").exists() and not (folder / "fold.json").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.full(20, 10)}, "labels up to 10, but the network has 10 classes"),
        ({"images": np.zeros((20, 1, 8, 8), np.uint8)}, "images of [1, 8, 8], but the network takes [1, 16, 16]"),
    ],
)
def test_an_evaluation_set_of_another_network_is_refused(folder, capsys, changes, message):
    with np.load(folder / "eval.npz") as file:
        np.savez(folder / "eval.npz", **{**file, **changes})
    assert call("fold", folder) == 2
    assert f"error: {folder / 'eval.npz'}: {message}" in capsys.readouterr().err
    assert not (folder / "folded.safetensors").exists()


@pytest.mark.parametrize("name", ["hardened.safetensors", "eval.npz"])
def test_missing_and_damaged_inputs(folder, capsys, name):
    path = folder / name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert call("fold", folder) == 2
    path.unlink()
    assert call("fold", folder) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all(line.startswith(f"error: {path}") for line in lines)
    assert not (folder / "folded.safetensors").exists()


def test_scan_of_a_checkpoint(folder, capsys):
    assert call("scan", folder / "hardened.safetensors") == 0
    out = capsys.readouterr().out
    assert "blocks.3  expand.conv + depthwise.conv + project.conv" in out and "head.conv + linear" in out
    assert call("scan", folder / "hardened.safetensors", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    layers = [f"blocks.3.{part}.conv" for part in ("expand", "depthwise", "project")]
    found = next(candidate for candidate in document["candidates"] if candidate["layers"] == layers)
    assert found["activations"] == ["blocks.3.expand.act", "blocks.3.depthwise.act"]
    assert document["skipped"] == []


def test_scan_of_a_torchvision_network(capsys):
    assert call("scan", "torchvision.models:resnet18", "--input", 3, 64, 64) == 0
    assert "layer1.0  conv1 + conv2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.safetensors"], "none.safetensors: no such checkpoint"),
        (["torchvision.models:resnet18"], "--input 3 224 224"),
        (["torchvision.models:resnet1", "--input", "3", "64", "64"], "resnet1"),
        (["my.nets:small", "--input", "3", "64", "64"], "No module named 'my'"),
        (["resnet-20", "--input", "3", "32", "32"], "did you mean 'resnet20'?"),
        (["os:getcwd", "--input", "3", "32", "32"], "returns a str, not a network"),
        (["torchvision.models:resnet18", "--input", "4", "64", "64"], "input of shape [1, 4, 64, 64]"),
        ([], "required"),
    ],
)
def test_bad_arguments_of_scan(capsys, arguments, message):
    assert call("scan", *arguments) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_a_path_that_is_not_there_is_not_taken_for_a_name(tmp_path, capsys):
    assert run(lambda: command.main(["scan", str(tmp_path / "run")])) == 2
    assert "no such run folder or checkpoint" in capsys.readouterr().err
