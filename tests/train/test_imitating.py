"""Images without labels, and a network that gives no class for an image: its outputs are what is learned."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from layer_folding import front_door
from layer_folding.command_line import run
from layer_folding.fold import checkpoints
from layer_folding.train import batches, config
from layer_folding.train.settings import FinetuneSettings, PrefoldSettings
from tests.train import dense_networks

IMAGES, SIZE, BATCH = 24, 16, 4
NETWORKS = ("segmenter", "Detector")
FAST = ("--batch", BATCH, "--lr", 0.01)
OPENS = ("--remove-count", 1, "--gate-lr", 30, "--epochs", 3)


def layer_folding(*words: object) -> int:
    return run(lambda: front_door.call(list(map(str, words))))


def spec(name: str) -> str:
    return f"tests.train.dense_networks:{name}"


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Images that are bright in one place, in one folder."""
    root = tmp_path_factory.mktemp("photos")
    generator = torch.Generator().manual_seed(0)
    for number in range(IMAGES):
        pixels = torch.randint(0, 100, (SIZE, SIZE, 3), generator=generator)
        pixels[number % SIZE :, : number // 2 + 1] += 120
        Image.fromarray(pixels.to(torch.uint8).numpy()).save(root / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with weights for each network, whose BatchNorms know such images."""
    folder = tmp_path_factory.mktemp("weights")
    for name in (*NETWORKS, "Classes"):
        torch.manual_seed(0)
        model = getattr(dense_networks, name)()
        for _ in range(50):
            model.train()(torch.randn(8, 3, SIZE, SIZE) + torch.randn(8, 3, 1, 1))
        torch.save(model.state_dict(), folder / f"{name}.pt")
    return folder


@pytest.fixture
def begin(photos, trained, monkeypatch, tmp_path):
    """A function that begins a run with a network, and gives its folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def pretrain(name: str, folder: str = "run", data: Path = photos) -> Path:
        words = ("--model", spec(name), "--weights", trained / f"{name}.pt", "--data", data, "--size", SIZE)
        assert layer_folding("pretrain", "--run", tmp_path / folder, "--epochs", 0, *words) == 0
        return tmp_path / folder

    return pretrain


def accuracy(path: Path) -> float:
    recipe = checkpoints.read(path)[0]
    return recipe.accuracy[recipe.stage]


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("segmenter", "agreement with the original network, the share of pixels with the same class"),
        ("Detector", "the share of the variance of the original network's outputs that is reproduced"),
    ],
)
def test_the_original_network_agrees_with_itself(begin, capsys, name, meaning):
    folder = begin(name)
    said = capsys.readouterr()
    assert f"20 images without labels to train on, 4 to test; accuracy is {meaning}" in said.err
    assert "accuracy original 100.00 %" in said.out
    recipe = checkpoints.read(folder / "original.safetensors")[0]
    assert recipe.accuracy == {"original": 1.0} and recipe.classes == ()
    for name in ("eval.npz", "calib.npz"):
        with np.load(folder / name) as file:
            assert sorted(file) == ["images", "mean", "std"]
    assert layer_folding("show", folder / "eval.npz") == 0
    assert "4 of 3 x 16 x 16, 8 bits" in (shown := capsys.readouterr().out) and "no labels" in shown


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("segmenter", "the share of pixels with the same class"),
        ("Detector", "the share of the variance of the original network's outputs that is reproduced"),
    ],
)
def test_evaluate_gives_the_figure_that_the_stages_record(begin, photos, capsys, name, meaning):
    folder, trust = begin(name), ("--trust", spec(name))
    block = "0.2" if name == "segmenter" else "features.0.2"
    assert layer_folding("fit", folder, "--choose", f"{block}=3", "--force", *trust) == 0, capsys.readouterr().err
    assert layer_folding("finetune", "--run", folder, "--epochs", 0, *trust) == 0, capsys.readouterr().err
    capsys.readouterr()
    files = [folder / f"{stage}.safetensors" for stage in ("original", "hardened")]
    assert layer_folding("evaluate", *files, "--data", photos, "--size", SIZE, *trust) == 0
    lines = capsys.readouterr().out.splitlines()
    figures = (100.0, 100 * accuracy(files[1]))
    assert [line.rpartition(meaning)[2] for line in lines] == [f": {x:.2f} % on 4 images" for x in figures]
    assert figures[1] < 100


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_gates_open_and_all_stages_go_without_labels(begin, capsys, name):
    folder, trust = begin(name), ("--trust", spec(name))
    for again in (False, True):  # the second finds that all is done
        capsys.readouterr()
        assert layer_folding("prefold", "--run", folder, *FAST, *OPENS, *trust) == 0, capsys.readouterr().err
        assert layer_folding("finetune", "--run", folder, *FAST, "--epochs", 8, *trust) == 0, capsys.readouterr().err
        assert ("accuracy is " in capsys.readouterr().err) is not again
    assert config.settings(folder, "prefold", PrefoldSettings).distill == 1.0
    assert config.settings(folder, "finetune", FinetuneSettings).distill == 1.0
    recipe = checkpoints.read(folder / "hardened.safetensors")[0]
    assert recipe.removed and recipe.accuracy.keys() == {"original", "prefold", "removed", "hoisted", "hardened"}
    assert all(0 <= value <= 1 for value in recipe.accuracy.values())
    assert recipe.accuracy["hardened"] > max(0.3, 0.9 * recipe.accuracy["hoisted"])
    assert layer_folding("fold", folder, *trust) == 0
    assert "the same class for" not in capsys.readouterr().out
    assert accuracy(folder / "folded.safetensors") == pytest.approx(recipe.accuracy["hardened"], abs=1e-3)
    files = (folder / "original.safetensors", folder / "folded.safetensors")
    assert layer_folding("export", *files, "--data", folder / "eval.npz", *trust) == 0
    assert "has no labels, so the files get no accuracy" in capsys.readouterr().err
    onnx = (folder / "original.onnx", folder / "folded.onnx")
    assert (
        layer_folding("bench", *onnx, "--data", folder / "eval.npz", "--seconds", 0.2, "-o", folder / "bench.json") == 0
    )
    assert "has no labels, so no accuracy was measured" in capsys.readouterr().err
    assert layer_folding("show", folder) == 0
    assert layer_folding("report", folder) == 0


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_are_fitted_without_labels(begin, capsys, name):
    folder, trust = begin(name), ("--trust", spec(name))
    block = "0.2" if name == "segmenter" else "features.0.2"
    assert layer_folding("importance", folder, "--from", "fit", *trust) == 0, capsys.readouterr().err
    unit = "KL divergence" if name == "segmenter" else "squared error over variance"
    assert f"in {unit} by 20 images of calib.npz" in capsys.readouterr().out
    assert layer_folding("fit", folder, "--choose", f"{block}=3", "--force", *trust) == 0, capsys.readouterr().err
    assert layer_folding("finetune", "--run", folder, *FAST, "--epochs", 1, *trust) == 0, capsys.readouterr().err
    assert 0 <= accuracy(folder / "hardened.safetensors") <= 1


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_that_explodes_is_no_result(begin, name, capsys):
    folder = begin(name)
    given = ("--batch", BATCH, "--epochs", 4, "--lr", 1e6, "--trust", spec(name))
    assert layer_folding("prefold", "--run", folder, *given) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert (
        re.search(r"prefold, epoch \d: the (loss is (nan|inf)|network (exploded|collapsed))", last) and "--lr" in last
    )


def stop_at(monkeypatch, step: int) -> None:
    """Ctrl-C at a step of training."""
    augment, calls = batches.augment, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == step:
            raise KeyboardInterrupt
        return augment(*arguments)

    monkeypatch.setattr(batches, "augment", interrupted)


@pytest.mark.parametrize("name", NETWORKS)
def test_an_interrupted_run_ends_like_an_unbroken_one(begin, name, capsys):
    whole, broken = begin(name, "whole"), begin(name, "broken")
    given = (*FAST, *OPENS, "--ema", 0.5, "--trust", spec(name))
    assert layer_folding("prefold", "--run", whole, *given) == 0
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, step=2 * (20 // BATCH) + 2)  # in the third epoch
        assert layer_folding("prefold", "--run", broken, *given) == 130
    capsys.readouterr()
    assert layer_folding("prefold", "--run", broken, *given) == 0
    assert "goes on after epoch 2 of 3" in capsys.readouterr().err
    assert (whole / "prefold.safetensors").read_bytes() == (broken / "prefold.safetensors").read_bytes()


@pytest.mark.parametrize("name", NETWORKS)
def test_what_needs_labels_says_so(begin, name, capsys):
    folder, trust = begin(name), ("--trust", spec(name))
    np.savez(folder / "heldout.npz", **np.load(folder / "calib.npz"))
    refused = {
        ("prefold", "--run", folder, "--distill", 0): "--distill 0: neither the images nor the network have classes",
        ("prefold", "--run", folder, "--distill", 0.5): "--distill 0.5: neither the images nor the network",
        ("probe", "--run", folder): "calib.npz: has images without labels; importances from `layer-folding importance",
        ("importance", folder, "--from", "one-shot"): "calib.npz: has images without labels; give --from fit",
        ("importance", folder, "--from", "fit", "--labels"): "calib.npz: has images without labels; leave --labels out",
    }
    for words, said in refused.items():
        capsys.readouterr()
        assert layer_folding(*words, *trust) == 2
        (line,) = [each for each in capsys.readouterr().err.splitlines() if not each.startswith("note: ")]
        assert line.startswith("error: ") and said in line


def test_labels_are_for_a_classifier(begin, photos, trained, tmp_path, capsys):
    for split in ("train", "test"):
        (tmp_path / "labelled" / split).mkdir(parents=True)
        (tmp_path / "labelled" / split / "some").symlink_to(photos)
    words = ("--model", spec("Detector"), "--weights", trained / "Detector.pt", "--size", SIZE)
    assert layer_folding("pretrain", "--run", tmp_path / "run", "--data", tmp_path / "labelled", *words) == 2
    (line,) = [each for each in capsys.readouterr().err.splitlines() if each.startswith("error: ")]
    assert re.search(
        r"gives dict for one of the images .*, not \[1, 1\] logits; .* or give images without labels", line
    )


def test_outputs_that_are_integers_are_refused(photos, trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = ("--model", spec("Classes"), "--weights", trained / "Classes.pt", "--data", photos, "--size", SIZE)
    assert layer_folding("pretrain", "--run", tmp_path / "run", *words) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "its images have no labels, and the network gives no tensors of floating-point numbers" in last
    assert not (tmp_path / "run").exists()
