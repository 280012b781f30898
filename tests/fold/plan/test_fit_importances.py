"""What a network loses with each layer that could be fitted: `lf.importance`, and the command."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import layer_folding as lf
from layer_folding.command_line import run
from layer_folding.fit_choices import Choice
from layer_folding.fold import checkpoints, fit
from layer_folding.fold import commands as command
from layer_folding.fold.fitting import alone
from layer_folding.fold.fitting.layer_fit import fit_layer
from layer_folding.fold.models import build
from layer_folding.fold.plan.candidates import candidates
from layer_folding.latency_tables import write_table
from layer_folding.recipes import Network, Recipe
from tests.fold.plan.latency_tables import table_of

SHAPE = (1, 16, 16)
BLOCK = ("blocks.1.expand.act", "blocks.1.depthwise.act")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()


def test_the_loss_is_the_divergence_with_that_layer_alone_fitted():
    model, images = network(), torch.randn(64, 1, 8, 8)
    found = lf.importance(model, images)
    assert found.losses == {} and found.unit == "KL divergence by 64 images"
    assert {choice.activations for choice in found.fits} == {("1",)}
    assert found.of(["1"], 3) == fit(model, images, {"1": 3}, tuned=False).divergence < found.of(["1"], 1)


def test_with_labels_the_loss_is_the_increase_of_the_cross_entropy():
    model, images = network(), torch.randn(64, 1, 8, 8)
    with torch.no_grad():
        labels = model(images).argmax(1)
    found = lf.importance(model, images, labels=labels)
    assert found.unit == "cross entropy by 64 images"
    fitted, held_out = fit(model, images, {"1": 1}, tuned=False).model, slice(None, None, 8)
    with torch.no_grad():
        losses = [nn.functional.cross_entropy(m(images[held_out]), labels[held_out]) for m in (fitted, model)]
    assert found.of(["1"], 1) == pytest.approx(max(0, (losses[0] - losses[1]).item()), abs=1e-6)


def test_with_a_table_only_what_is_faster_is_looked_at():
    model, images = network(), torch.randn(64, 1, 8, 8)
    found = candidates(model, images[:1])
    table = table_of(found, {("1",): 1.0}, {Choice(("1",), (3, 3)): 1.0})
    said = []
    assert set(lf.importance(model, images, table=table, progress=said.append).fits) == {
        Choice(("1",), (3, 3)),
        Choice(("1",), "merged"),  # the same work as the exact merge
    }
    assert said == ["fit 1 of 2: 1=3x3", "fit 2 of 2: 1=merged", ""]


def test_a_fit_that_is_refused_has_no_loss():
    model, images = network(), torch.randn(5, 1, 4, 4)
    found = lf.importance(model, images)  # too few images for a 5x5 kernel
    assert found.of(["1"], 1) is not None and found.of(["1"], "merged") is None
    with pytest.raises(lf.InputError, match="too few"):
        lf.importance(model, images[:2])
    with pytest.raises(lf.InputError, match="not finite"):
        lf.importance(model, torch.full((16, 1, 4, 4), torch.nan))


@pytest.fixture
def folder(tmp_path) -> Path:
    """A run with images, and a table by which two shapes of block 1 are faster."""
    torch.manual_seed(0)
    arguments = {"num_classes": 10, "in_channels": 1}
    model = build("mobilenetv2-digits", **arguments)
    recipe = Recipe("original", Network("layer_folding:mobilenetv2-digits", arguments), SHAPE)
    checkpoints.save(tmp_path / "original.safetensors", model, recipe)
    found = candidates(model.eval(), torch.zeros(1, *SHAPE))
    write_table(tmp_path / "latency.csv", table_of(found, {}, {Choice(BLOCK, (1, 1)): 1.5, Choice(BLOCK, "none"): 1.0}))
    rng, half = np.random.default_rng(0), np.full(1, 0.5, np.float32)
    images = rng.integers(0, 256, (80, *SHAPE), np.uint8)
    np.savez(tmp_path / "calib.npz", images=images, labels=rng.integers(0, 10, 80), mean=half, std=half)
    return tmp_path


def call(*arguments: object) -> int:
    return run(lambda: command.main([*map(str, arguments)]))


@pytest.mark.slow
def test_interrupted_the_command_goes_on_where_it_stopped(folder, monkeypatch, capsys):
    arguments = ("importance", folder, "--from", "fit", "--latency", folder / "latency.csv")
    fitted: list[str] = []

    def interrupted(sides, part, flat, grams):
        fitted.append(str(part.choice))
        if len(fitted) == 2:
            raise KeyboardInterrupt
        return fit_layer(sides, part, flat, grams)

    monkeypatch.setattr(alone, "fit_layer", interrupted)
    assert call(*arguments) == 130
    first = lf.read_importance(folder / "importance.csv")
    assert first.unit == "KL divergence by 80 images of calib.npz" and len(first.fits) == 1
    assert call(*arguments) == 0
    assert len(set(fitted)) == len(fitted) - 1  # the one that was interrupted, twice
    found = lf.read_importance(folder / "importance.csv")
    assert first.fits.items() <= found.fits.items()
    assert {choice.shape for choice in found.fits if choice.activations == BLOCK} == {(1, 1), "none"}
    out, err = capsys.readouterr()
    assert f"goes on: 1 of {len(found.fits)} layers are in" in err and f"{len(found.fits)} layers, in KL" in out
    table = ("--latency", folder / "latency.csv", "--importance", folder / "importance.csv")
    assert call("plan", folder, *table) == 0
    assert "none, fitted" in capsys.readouterr().out and "=none\n" in (folder / "plan.txt").read_text()


def test_options_of_a_fit_go_with_a_fit(folder, capsys):
    for option in (("--labels",), ("--latency", folder / "latency.csv")):
        assert call("importance", folder, "--from", "gates", *option) == 2
        assert capsys.readouterr().err == f"error: {option[0]}: is for --from fit; leave it out\n"
