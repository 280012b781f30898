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


def test_a_network_without_weights_needs_labels(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert layer_folding("pretrain", "--run", "run", "--model", "resnet20", "--data", photos) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: data ") and "has no labels to train a network by; give" in last
    assert not list(tmp_path.rglob("*.safetensors"))


def test_checkpoints_are_compared_with_the_original_network_of_their_run(photos, weights, tmp_path, capsys):
    folder = begun(tmp_path / "run", photos, weights)
    model, recipe = checkpoints.load(folder / "original.safetensors")
    next(layer for layer in reversed(list(model.modules())) if isinstance(layer, torch.nn.Linear)).weight.data.neg_()
    checkpoints.save(folder / "other.safetensors", model, recipe)
    capsys.readouterr()
    files = [folder / f"{name}.safetensors" for name in ("original", "other")]
    assert layer_folding("evaluate", *files, "--data", photos, "--size", 16) == 0
    said = capsys.readouterr()
    original, other = said.out.splitlines()
    assert original == f"{files[0]}: agreement with the original network: 100.00 % on 12 images"
    assert float(other.rpartition(": ")[2].split(" %")[0]) < 100
    assert said.err.count("images without labels") == 1  # one original network, asked once


def test_a_checkpoint_without_its_original_network_is_not_compared(photos, weights, tmp_path, capsys):
    folder = begun(tmp_path / "run", photos, weights)
    (folder / "original.safetensors").rename(folder / "alone.safetensors")
    capsys.readouterr()
    assert layer_folding("evaluate", folder / "alone.safetensors", "--data", photos, "--size", 16) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"error: {folder / 'original.safetensors'}: no such file; ")
    assert "give checkpoints in their run folder, or images with labels" in last


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
