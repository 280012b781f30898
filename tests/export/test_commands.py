import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from layer_folding.command_line import run
from layer_folding.export import commands as command
from layer_folding.fold.regions.costs import cost, depth
from layer_folding.recipes import Network, Recipe, from_json
from tests.export.networks import Residual, randomised
from tests.export.test_verifying import tampered

RECIPE = Recipe(
    "folded",
    Network("layer_folding:residual"),
    (3, 12, 12),
    classes=tuple("0123456789"),
    accuracy={"original": 0.5, "folded": 0.875},
)


def export(*arguments):
    return run(lambda: command.main(["export", *(str(argument) for argument in arguments)]))


@pytest.fixture
def checkpoint(monkeypatch, tmp_path, exported):
    """A checkpoint that stands for the network of ``exported``, whose translation is not repeated."""
    monkeypatch.setattr(command, "load", lambda path, trust: (exported.model, RECIPE))
    monkeypatch.setattr(command, "lower", lambda *arguments, **options: exported.lowered)
    return tmp_path / "folded.safetensors"


def evalset(path, shape=(8, 3, 12, 12)):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, shape, np.uint8)
    labels, ones = np.zeros(len(images), np.int64), np.ones(shape[1], np.float32)
    np.savez(path, images=images, labels=labels, mean=ones / 2, std=ones)
    return path


def test_one_checkpoint(checkpoint, tmp_path, exported, capsys):
    assert export(checkpoint, "--data", evalset(tmp_path / "eval.npz")) == 0
    line, errors = capsys.readouterr()
    target = tmp_path / "folded.onnx"
    assert re.fullmatch(
        rf"{target}: 16 => 16 nodes; passes at tolerance \S+; accuracy \d+.\d\d % of 8 images; \d+.\d kB\n", line
    )
    assert errors.splitlines()[0].split() == ["Conv", "7", "=>", "7"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["eval.npz", "folded.onnx"]
    proto = onnx.load(target)
    onnx.checker.check_model(proto, full_check=True)
    example = torch.zeros(1, 3, 12, 12)
    metadata = {entry.key.removeprefix("layer_folding."): entry.value for entry in proto.metadata_props}
    assert from_json(metadata.pop("recipe")) == RECIPE
    assert metadata.pop("accuracy") in [str(n / 8) for n in range(9)]
    assert metadata == {
        "depth": str(depth(exported.model, example)),
        "parameters": str(cost(exported.model, example).parameters),
        "macs": str(cost(exported.model, example).macs),
        "precision": "fp32",
        "model": "residual",
    }


def test_accuracy_of_the_recipe_without_data(checkpoint, tmp_path):
    assert export(checkpoint) == 0
    metadata = {entry.key: entry.value for entry in onnx.load(tmp_path / "folded.onnx").metadata_props}
    assert metadata["layer_folding.accuracy"] == "0.875"


def test_no_accuracy_where_none_was_measured(checkpoint, monkeypatch, tmp_path, exported):
    monkeypatch.setattr(command, "load", lambda path, trust: (exported.model, replace(RECIPE, accuracy={})))
    assert export(checkpoint) == 0
    assert "layer_folding.accuracy" not in [entry.key for entry in onnx.load(tmp_path / "folded.onnx").metadata_props]


@pytest.mark.parametrize("before", [None, b"an older export"])
def test_failed_check_leaves_nothing_under_the_name(checkpoint, monkeypatch, tmp_path, exported, capsys, before):
    target = tmp_path / "folded.onnx"
    if before:
        target.write_bytes(before)
    monkeypatch.setattr(command, "lower", lambda *arguments, **options: tampered(exported.lowered, 1.5))
    assert export(checkpoint) == 1
    output, error = capsys.readouterr()
    error = error.splitlines()[-1]
    assert output == ""
    assert str(checkpoint) in error and "differ by" in error and f"{target} was not written" in error
    assert not target.exists()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == (
        {"folded.onnx.old": before} if before else {}
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a/x.safetensors", "b/x.safetensors", "-o", "out"], "2 networks would all become out/x.onnx"),
        (["a.safetensors", "b.safetensors", "-o", "one.onnx"], "one.onnx is one file for 2 networks"),
        (["a.safetensors", "-o", __file__], "neither a folder nor"),
        (["a.safetensors", "--opset", "new"], "--opset"),
        (["a.safetensors", "--data", "no/such/eval.npz"], "no/such/eval.npz: no such file"),
        (["a.safetensors", "--precision", "fp32,int8"], "--calibration: calib.npz is not there"),
        (["--frobnicate"], "--help"),
    ],
)
def test_bad_options(checkpoint, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert export(*arguments) == 2
    output, error = capsys.readouterr()
    assert output == "" and error.count("\n") == 1 and message in error
    assert not list(tmp_path.iterdir())


def test_bad_input_leaves_an_older_file(checkpoint, tmp_path, capsys):
    (tmp_path / "folded.onnx").write_bytes(b"older")
    assert export(checkpoint, "--data", evalset(tmp_path / "eval.npz", (8, 3, 10, 10))) == 2
    assert "images of [3, 10, 10]" in capsys.readouterr().err
    assert (tmp_path / "folded.onnx").read_bytes() == b"older"


def test_output_folder(checkpoint, tmp_path):
    assert export(tmp_path / "a.safetensors", tmp_path / "b.safetensors", "-o", tmp_path / "new" / "folder") == 0
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == ["a.onnx", "b.onnx"]


def test_untraceable_model_names_the_checkpoint(monkeypatch, tmp_path, capsys):
    class Branching(nn.Module):
        def forward(self, x):
            return x + 1 if x.sum() > 0 else x

    monkeypatch.setattr(command, "load", lambda path, trust: (Branching(), RECIPE))
    assert export(tmp_path / "odd.safetensors") == 2
    assert "odd.safetensors: torch.export cannot trace" in capsys.readouterr().err


@pytest.mark.slow
def test_as_a_process(tmp_path):
    missing = tmp_path / "missing.safetensors"
    done = subprocess.run([sys.executable, "-m", "export", str(missing)], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert str(missing) in done.stderr and done.stderr.count("\n") == 1


def test_help_shows_an_example(capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(["export", "--help"])
    assert ended.value.code == 0
    assert "layer-folding export runs/" in capsys.readouterr().out


@pytest.mark.slow
def test_same_file_for_same_checkpoint(monkeypatch, tmp_path):
    torch.manual_seed(1)
    model = randomised(Residual())
    monkeypatch.setattr(command, "load", lambda path, trust: (model, RECIPE))
    assert export(tmp_path / "a.safetensors") == export(tmp_path / "b.safetensors") == 0
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
