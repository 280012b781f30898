"""Images without labels: the original network is the teacher, and accuracy is agreement with it."""

import shutil

import numpy as np
import pytest
import torch

from layer_folding import front_door
from layer_folding.command_line import run
from layer_folding.errors import InputError
from layer_folding.fold import checkpoints
from layer_folding.train import config, data
from layer_folding.train.settings import PrefoldSettings


@pytest.fixture(scope="module")
def photos(images, tmp_path_factory):
    """The images of both classes, in folders that say nothing."""
    folder = tmp_path_factory.mktemp("photos")
    for number, path in enumerate(sorted(images.rglob("*.png"))):
        target = folder / ("some" if number % 2 else "more/of them") / f"{number}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "x.png").write_bytes(b"no image")
    (folder / "notes.txt").write_text("no image either")
    return folder


def layer_folding(*words: object) -> int:
    return run(lambda: front_door.call(list(map(str, words))))


def begun(folder, photos, weights):
    words = ("--model", "mobilenetv2-digits", "--data", photos, "--size", 16, "--weights", weights)
    assert layer_folding("pretrain", "--run", folder, *words) == 0
    return folder


def test_the_classes_that_the_original_network_gives_are_the_labels(photos, weights, tmp_path, capsys):
    folder = begun(tmp_path / "run", photos, weights)
    said = capsys.readouterr()
    assert "52 images without labels to train on, 12 to test; accuracy is agreement with the original" in said.err
    model, recipe = checkpoints.load(folder / "original.safetensors")
    assert recipe.accuracy == {"original": 1.0} and recipe.classes == ("0", "1")
    for name in ("eval.npz", "calib.npz"):
        found = np.load(folder / name)
        x = torch.from_numpy(found["images"]).float() / 255
        x = (x - torch.from_numpy(found["mean"]).view(-1, 1, 1)) / torch.from_numpy(found["std"]).view(-1, 1, 1)
        assert model.eval()(x).argmax(1).tolist() == found["labels"].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("begin", [("prefold", "--lambda", 8, "--epochs", 4, "--gate-lr", 30), ("fit",)])
def test_all_stages_go_without_labels(photos, weights, tmp_path, capsys, begin):
    folder = begun(tmp_path / "run", photos, weights)
    stage, *words = begin
    given = ("prefold", "--run", folder, *words) if words else (stage, folder, "--choose", "blocks.0.depthwise.act=3")
    for _ in range(2):  # the second finds that all is done
        assert layer_folding(*given) == 0, capsys.readouterr().err
        assert layer_folding("finetune", "--run", folder, "--epochs", 1) == 0, capsys.readouterr().err
        assert layer_folding("fold", folder) == 0
    assert "so the original network is the teacher: --distill 1" in capsys.readouterr().err
    accuracy = checkpoints.read(folder / "folded.safetensors")[0].accuracy
    assert accuracy["original"] == 1.0 and set(accuracy) >= {"prefold", "hardened", "folded"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("pretrain", "--run", "run", "--model", "resnet20", "--data"), "has no labels to train a network by; give"),
        (("evaluate", "original.safetensors", "--data"), "has no labels; lay it out as train/CLASS"),
    ],
)
def test_what_needs_labels_says_so(photos, tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    assert layer_folding(*words, photos) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: data ") and said in last
    assert not list(tmp_path.rglob("*.safetensors"))


def test_another_weight_of_the_teacher_is_kept(photos, weights, tmp_path):
    folder = begun(tmp_path / "run", photos, weights)
    assert layer_folding("prefold", "--run", folder, "--epochs", 0, "--distill", 0.5) == 0
    assert config.settings(folder, "prefold", PrefoldSettings).distill == 0.5


def test_a_few_images_are_refused(images, tmp_path, capsys):
    shutil.copytree(images / "test" / "dark", tmp_path / "few")
    with pytest.raises(InputError, match="has no folder train, and 8 images without labels"):
        data.load(str(tmp_path / "few"), 16)


def test_what_is_left_out_is_counted_and_hidden_folders_are_not_seen(photos, capsys):
    assert len(data.load(str(photos), 16).train.labels) == 52
    assert "left out 1 that are no images by their suffix: .txt 1" in capsys.readouterr().err


def test_what_is_done_is_not_labelled_again(photos, weights, tmp_path, capsys):
    begun(tmp_path / "run", photos, weights)
    capsys.readouterr()
    begun(tmp_path / "run", photos, weights)
    assert "accuracy is agreement" not in capsys.readouterr().err
