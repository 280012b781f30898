"""The paper's recipe beside ours, on a few images with the weights of a fresh network."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import paper, published_recipe
from layer_folding.errors import InputError
from layer_folding.fold.models import build
from layer_folding.fold.regions.costs import Cost
from layer_folding.train.data import load


@pytest.fixture
def data(tmp_path):
    """A folder of small colour images of two classes."""
    draw = np.random.default_rng(0)
    for split, images in (("train", 16), ("test", 4)):
        for label in ("a", "b"):
            folder = tmp_path / "data" / split / label
            folder.mkdir(parents=True)
            for number in range(images):
                Image.fromarray(draw.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / f"{number}.png")
    return tmp_path / "data"


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    torch.save(build("resnet20", 2).state_dict(), tmp_path / "w.pt")
    return tmp_path / "w.pt"


def test_a_table_has_a_column_for_each_way():
    accuracy = {"prefold": 0.8, "removed": 0.1, "hardened": 0.875}
    found = paper.Result(5, 15, 30_000_000, (3, 3), accuracy, (2.0, 4.0, 3.0))
    none = paper.Result(0, 20, 40_000_000, (3, 0), {"prefold": 0.8}, (1.0,))
    original = Cost(20, 270_000, 40_000_000)
    header, *rows = paper.rows({paper.PAPER: found, paper.AFFINE: none}, (120.0, 3.25), original, 0.884)
    by_name = {row[0]: row[1:] for row in rows}
    assert header == ["", paper.PAPER, paper.AFFINE]
    assert by_name["kernels of nine pairs, ms"] == ["120.0", "3.2"]
    assert by_name["epochs, with gates + fine-tuning"] == ["3 + 3", "3 + 0"]
    assert by_name["seconds an epoch"] == ["3.0", "1.0"]
    assert by_name["layers"] == ["20 => 15", "20 => 20"]
    assert by_name["accuracy before"] == ["88.40 %", "88.40 %"]
    assert by_name["fine-tuned"] == ["87.50 %", "-"]


def test_the_gates_of_the_paper_are_on_all_activations_but_the_first():
    model, known = published_recipe.with_gates(build("resnet20", 10).eval(), torch.zeros(1, 3, 32, 32))
    assert len(known) == 18
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    closed = model(images)
    for gate in known.values():
        gate.alpha.data.fill_(1)
    assert not torch.allclose(model(images), closed)


def test_the_penalty_opens_a_gate_that_is_half_open_and_no_alpha_is_negative():
    model, known = published_recipe.with_gates(build("resnet20", 2), torch.zeros(1, 3, 32, 32))
    half, shut = list(known.values())[:2]
    half.alpha.data.fill_(0.5)
    shut.alpha.data.fill_(-1)
    batch = (torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 0, 1]))
    published_recipe.epoch(model, torch.optim.SGD([half.alpha, shut.alpha], lr=1e-3), [batch], [half])
    published_recipe.epoch(model, torch.optim.SGD([shut.alpha], lr=0.0), [batch], [shut])
    assert shut.alpha == 0 and half.alpha != 0.5


def test_gray_images_are_refused_before_anything_is_measured(weights):
    with pytest.raises(InputError, match="--data digits: is not colour images"):
        paper.main(["--weights", str(weights), "--data", "digits"])


@pytest.mark.slow
def test_the_paper_and_fits_from_the_same_weights(data, weights, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(paper, "kernel_ms", lambda progress: (9.0, 1.0))
    monkeypatch.setattr(paper, "WAYS", (paper.PAPER, paper.FITS))
    monkeypatch.setattr(paper, "FITTED", ("layer2.1",))
    output = tmp_path / "paper.json"
    paper.main(["--weights", str(weights), "--data", str(data), "--epochs", "1", "-o", str(output)])
    written = json.loads(output.read_text())
    assert written["table"][0] == ["", paper.PAPER, paper.FITS]
    assert written["results"][paper.FITS]["removed"] == 1
    assert written["results"][paper.PAPER]["epochs"] == [1, 1]
    assert "20 => 19" in capsys.readouterr().out


def test_images_are_given_in_batches_as_the_data_set_has_them(data):
    dataset = load(str(data), 32)
    images, labels = next(iter(published_recipe.loader(dataset, 8)))
    assert images.shape == (8, 3, 32, 32) and images.dtype == torch.float32 and set(labels.tolist()) <= {0, 1}
