"""--model, --data and --weights through the stages: sizes, normalisation, code of one's own, published checkpoints."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from layer_folding.command_line import run
from layer_folding.export import commands as export_command
from layer_folding.export import export
from layer_folding.fold import checkpoints
from layer_folding.fold import commands as fold_command
from layer_folding.fold.models import build
from layer_folding.fold.models.weights import load_weights
from layer_folding.train import commands as train_command
from layer_folding.train import health

SHARED = Path(__file__).parents[2].parent / "shared"


def call(command, *arguments: object) -> int:
    return run(lambda: command.main([str(argument) for argument in arguments]))


def train(*arguments: object) -> int:
    return call(train_command, *arguments)


@pytest.fixture
def images(tmp_path, monkeypatch) -> Path:
    """Ten classes of two images to train and one to test."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 2), ("test", 1)):
        for name in map(str, range(10)):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            for i in range(count):
                image = Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8))
                image.save(tmp_path / "images" / split / name / f"{i}.png")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "images"


def test_size_and_normalisation_hold_for_the_whole_run(images, tmp_path):
    options = ("--size", 24, "--mean", 0.1, 0.2, 0.3, "--std", 0.4, 0.5, 0.6)
    network = ("--model", "mobilenetv2-digits", "--data", images, "--epochs", 0)
    assert train("pretrain", "--run", tmp_path / "run", *network, *options) == 0
    assert checkpoints.read(tmp_path / "run" / "original.safetensors")[0].input_shape == (3, 24, 24)
    with np.load(tmp_path / "run" / "eval.npz") as file:
        assert file["images"].shape == (10, 3, 24, 24)
        assert file["mean"].tolist() == pytest.approx([0.1, 0.2, 0.3]) and file["std"][2] == pytest.approx(0.6)
    assert train("prefold", "--run", tmp_path / "run", "--epochs", 1, "--batch", 10) == 0  # on images of that size
    settings = json.loads((tmp_path / "run" / "config.json").read_text())["stages"]["pretrain"]["settings"]
    assert (settings["size"], settings["mean"], settings["data"]) == (24, [0.1, 0.2, 0.3], str(images))


@pytest.mark.slow
def test_a_network_from_an_onnx_file_goes_through_the_stages_without_the_file(images, tmp_path):
    pytest.importorskip("onnx2torch", reason="needs onnx2torch")
    torch.manual_seed(0)
    file, run_folder = tmp_path / "net.onnx", tmp_path / "run"
    export(build("mobilenetv2-digits", 10, 3).eval(), torch.rand(1, 3, 32, 32), file)
    assert train("pretrain", "--run", run_folder, "--model", f"onnx:{file}", "--data", images) == 0
    weights, again = load_weights(file), checkpoints.load(run_folder / "original.safetensors")[0].state_dict()
    assert all(torch.equal(weights[name], again[name]) for name in again)
    file.unlink()
    assert train("prefold", "--run", run_folder, "--epochs", 0, "--batch", 10) == 0
    assert train("finetune", "--run", run_folder, "--epochs", 0, "--batch", 10, "--threshold", 0) == 0
    assert call(fold_command, "fold", run_folder) == 0
    assert checkpoints.load(run_folder / "folded.safetensors")[1].network.spec == "onnx:net.onnx"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--mean", 0.5), "--mean: 1 numbers for images of 3 channels; give one each"),
        (("--size", 0), "'0' is not a size from 1 to 8192"),
        (("--size", 10_000_000), "'10000000' is not a size from 1 to 8192"),
        (("--seed", 10**22), "is not a whole number from 0 to 4294967295"),
        (("--std", 0, 0, 0), "'0' is not a standard deviation of values from 0 to 1: 0.001 to 1"),
        (("--std=-1",), "'-1' is not a standard deviation"),
        (("--std", "1e-45", 1, 1), "'1e-45' is not a standard deviation"),
        (("--std", "58.4", 1, 1), "'58.4' is not a standard deviation"),
        (("--mean", "123.7", 1, 1), "'123.7' is not a number from 0 to 1"),
        (("--model", "vgg16-bn", "--size", 16), "does not take images [3, 16, 16]"),
        (("--model", "json:loads"), "model 'json:loads'"),
        (("--model", "torchvision:resnet19"), "no such network, did you mean"),
    ],
)
def test_what_does_not_go_together_is_said_in_a_line(options, message, images, tmp_path, capsys):
    assert train("pretrain", "--run", tmp_path / "run", "--model", "resnet20", "--data", images, *options) == 2
    err = capsys.readouterr().err.splitlines()[-1]
    assert err.startswith("error: ") and message in err
    assert not (tmp_path / "run").exists()


def test_weights_of_another_order_of_the_classes_are_said(images, tmp_path, capsys):
    torch.manual_seed(0)
    torch.save(build("resnet20", 10).state_dict(), tmp_path / "w.pt")
    network = ("--model", "resnet20", "--data", images, "--weights", tmp_path / "w.pt")
    assert train("pretrain", "--run", tmp_path / "run", *network) == 0
    err = capsys.readouterr().err
    assert "% of 10 test images is no better than guessing among 10 classes; usual causes: another order" in err
    assert "(here that of the sorted names: 0, 1, 2, ...)" in err


@pytest.mark.parametrize(
    ("accuracy", "images", "classes", "expected"),
    [(0.02, 10_000, 10, True), (0.105, 10_000, 10, True), (0.15, 10_000, 10, False), (0.5, 100, 2, True)],
)
def test_what_is_no_better_than_guessing(accuracy, images, classes, expected):
    assert health.guesses(accuracy, images, classes) is expected


def test_depth_is_short_for_a_resnet_and_a_wrong_name_is_said_before_data_is_read(images, tmp_path, capsys):
    assert train("pretrain", "--run", tmp_path / "run", "-d", 20, "--data", images, "--epochs", 0) == 0
    recipe = checkpoints.read(tmp_path / "run" / "original.safetensors")[0]
    assert recipe.network.spec == "layer_folding:resnet20"
    capsys.readouterr()
    for name in (("-d", 21), ("--model", "resnet21")):
        assert train("pretrain", "--run", tmp_path / "run2", *name, "--data", tmp_path / "none") == 2
        assert "unknown model 'resnet21': did you mean" in capsys.readouterr().err


def test_own_code_has_to_be_trusted_in_every_command(images, tmp_path, monkeypatch, capsys):
    (tmp_path / "minenet.py").write_text(
        "from torch import nn\n"
        "def small(num_classes):\n"
        "    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))\n"
        "    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), *head)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    folder, trust = tmp_path / "run", ("--trust", "minenet:small")
    assert train("pretrain", "--run", folder, "--model", "minenet:small", "--data", images, "--epochs", 0) == 0
    assert train("prefold", "--run", folder, "--epochs", 0) == 2
    assert "if you trust that code, name it: --trust minenet:small" in capsys.readouterr().err
    assert train("prefold", "--run", folder, *trust, "--epochs", 0) == 0
    assert train("finetune", "--run", folder, *trust, "--epochs", 0, "--threshold", 0) == 0
    for command, *arguments in (
        (train_command, "evaluate", folder / "original.safetensors", "--data", images),
        (fold_command, "scan", folder / "original.safetensors"),
        (fold_command, "fold", folder),
        (export_command, "export", folder / "folded.safetensors"),
    ):
        assert call(command, *arguments) == 2
        assert "name it: --trust minenet:small" in capsys.readouterr().err
        assert call(command, *arguments, *trust) == 0
    assert (folder / "folded.onnx").is_file()


@pytest.mark.slow
def test_the_checkpoint_of_the_original_code_goes_all_the_way(images, tmp_path, capsys):
    weights = SHARED / "models/layer-folding-prefold-resnet20.ckpt"
    if not weights.is_file():
        pytest.skip("needs ../shared/models/layer-folding-prefold-resnet20.ckpt, which is not here")
    folder = tmp_path / "run"
    assert train("pretrain", "--run", folder, "--model", "resnet20", "--data", images, "--weights", weights) == 0
    assert "has 18 gates" in capsys.readouterr().err
    assert train("prefold", "--run", folder, "--epochs", 0) == 0
    alphas = checkpoints.read(folder / "prefold.safetensors")[0].gates
    assert sum(alpha >= 0.9 for alpha in alphas.values()) == 10
    assert train("finetune", "--run", folder, "--epochs", 1, "--batch", 10) == 0
    assert len(checkpoints.read(folder / "hardened.safetensors")[0].removed) == 10
    assert call(fold_command, "fold", folder) == 0
    assert call(export_command, "export", folder / "original.safetensors", folder / "folded.safetensors") == 0
    folded = json.loads((folder / "fold.json").read_text())
    assert len(folded["folded"]) == 2 and folded["cost"]["folded"]["depth"] == 16
