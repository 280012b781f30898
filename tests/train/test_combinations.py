"""Every network starts on every data set, from the command; docs/models.md says which were trained in full."""

import shutil
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from layer_folding.command_line import run
from layer_folding.fold import checkpoints
from layer_folding.fold.models import MODELS
from layer_folding.train import commands as command
from layer_folding.train import config, data
from tests.train.published_files import publish

OTHERS = ("torchvision:mobilenet_v2", "timm:resnet10t", "ownnets:small")
EVERY_MODEL = (*MODELS, *OTHERS)
EVERY_DATA = ("digits", "mnist", "cifar10", "cifar100", "folder", "large-folder")
GRAY = ("digits", "mnist")
# One network of each kind trains on one data set or another, and small ones on all of them.
KINDS = ("resnet20", "vgg16-bn", "mobilenetv2-0.75", "efficientnet-lite0", "mlp-tanh", "mlp-sigmoid", *OTHERS)
TRAINED = {(model, EVERY_DATA[2:][i % 4]) for i, model in enumerate(KINDS)} | {
    (model, name) for model in ("mlp-relu", "ownnets:small") for name in EVERY_DATA
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Iterator[dict[str, str]]:
    """What --data says for each of EVERY_DATA, all of them with few images."""
    root = tmp_path_factory.mktemp("data")
    for split, count in (("train", 10), ("test", 4)):
        for label, name in enumerate(("dark", "bright")):
            (root / "folder" / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.random.default_rng(i).integers(0, 128, (40, 40, 3)) + 127 * label
                Image.fromarray(pixels.astype(np.uint8)).save(root / "folder" / split / name / f"{i}.png")
    shutil.copytree(root / "folder", root / "large-folder")
    (root / "ownnets.py").write_text(
        "from torch import nn\n"
        "def small(num_classes, in_channels):\n"
        "    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))\n"
        "    return nn.Sequential(nn.Conv2d(in_channels, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), *head)\n"
    )
    digits = data.load("digits")
    train, test = (data.Split(part.images[:20], part.labels[:20]) for part in (digits.train, digits.test))
    with pytest.MonkeyPatch.context() as patch:
        publish(root / "cache", patch)
        patch.setattr(data, "_digits", lambda size: replace(digits, train=train, test=test))
        patch.setattr(config, "_revision", lambda: None)  # asking git takes longer than a step
        patch.syspath_prepend(root)
        yield {name: str(root / name) if "folder" in name else name for name in EVERY_DATA}


@pytest.fixture
def in_memory(monkeypatch, name) -> None:
    monkeypatch.setattr(data, "RESIDENT_BYTES", 0 if name == "large-folder" else 2**30)


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY_DATA)
@pytest.mark.parametrize("model", EVERY_MODEL)
def test_it_starts(model, name, tiny, in_memory, tmp_path, capsys):
    options = ("--run", tmp_path / "run", "--model", model, "--data", tiny[name], "--epochs", 0)
    code = run(lambda: command.main(["pretrain", *map(str, options)]))
    if model.startswith("torchvision") and name in GRAY:
        assert code == 2 and "does not take images [1, 32, 32]" in capsys.readouterr().err
    else:
        assert code == 0, capsys.readouterr().err
        recipe, weights = checkpoints.read(tmp_path / "run" / "original.safetensors")
        assert len(recipe.classes) == {"cifar100": 100}.get(name, 2 if "folder" in name else 10)
        assert weights and 0 <= recipe.accuracy["original"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize(("model", "name"), sorted(TRAINED))
def test_it_trains(model, name, tiny, in_memory, tmp_path, capsys):
    options = ("--run", tmp_path / "run", "--model", model, "--data", tiny[name], "--epochs", 1, "--batch", 10)
    code = run(lambda: command.main(["pretrain", *map(str, options)]))
    assert code == 0, capsys.readouterr().err
    recipe = checkpoints.load(tmp_path / "run" / "original.safetensors", trust=model)[1]
    assert recipe.input_shape == (1 if name in GRAY else 3, 32, 32)
