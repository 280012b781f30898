"""The benchmark of a trained network without labels, on a small network and a latency table that is given."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import efficientnet_lite, efficientnet_rows
from benchmarks.efficientnet_rows import Kept, Outcome, Refused
from layer_folding import command_line
from layer_folding.fold.plan.candidates import candidates
from layer_folding.stats import Comparison
from tests.benchmarks.test_planned import chain
from tests.fold.plan.latency_tables import table_of

pytest.importorskip("onnx2torch", reason="needs onnx2torch")

COMPARED = Comparison(speedup=1.21, ci95=(1.2, 1.22), verdict="faster", baseline="original", candidate="1.2x", batch=1)
OUTCOME = Outcome(
    ("1=3x3",), 1.234, (53, 40), Kept(0.872, 1.0), Kept(0.7, 0.754), Kept(0.8, 0.866), "H100", COMPARED
)  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """Weights of `chain`, and 64 images."""
    torch.manual_seed(0)
    torch.save(chain().state_dict(), tmp_path / "net.pt")
    random = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for number in range(64):
        Image.fromarray(random.integers(0, 256, (16, 16, 3)).astype(np.uint8)).save(
            tmp_path / f"photos/{number:03}.png"
        )
    return tmp_path


def command(folder, *words):
    given = ("--weights", folder / "net.pt", "--images", folder / "photos", "--size", 16, "--seconds", 0.02)
    model = ("--model", "tests.benchmarks.test_planned:chain")
    return command_line.run(lambda: efficientnet_lite.main([*map(str, (*given, *model, *words))]))


def test_a_table_says_what_is_kept_and_what_is_refused():
    header, found, refused = efficientnet_rows.rows({"onnx, 1.2x": OUTCOME, "onnx, 9x": Refused("no plan")})
    assert found[:4] == ["onnx, 1.2x", "53 => 40", "1.234x", "1.210x [1.200, 1.220]"]
    assert found[4:] == ["87.2 %", "70.0 %", "80.0 %", "75.4 %", "86.6 %", "H100"]
    assert refused == ["onnx, 9x", "-", "-", "no plan", *"------"] and len(header) == len(found) == len(refused)


def test_every_other_image_is_fitted_to_and_its_class_is_its_place(folder):
    images = efficientnet_lite.read(folder / "photos", 16)
    assert images.fitted.shape == images.measured.shape == (32, 3, 16, 16)
    assert images.labels.tolist() == list(range(1, 64, 2))


@pytest.mark.slow
def test_from_weights_to_a_table_and_on_from_there(folder, monkeypatch, capsys):
    measured = []

    def given(model, example, *, folder, **others):
        measured.append(folder.name)
        found = candidates(model, example)
        choices = [each.choice for candidate in found.found for each in candidate.alternatives if each.choice]
        return table_of(found, {}, dict.fromkeys(choices, 0.5))

    monkeypatch.setattr(efficientnet_lite, "measured_table", given)
    output = folder / "lite.json"
    assert command(folder, "--speedups", 1.1, 9, "--epochs", 2, "-o", output) == 0, capsys.readouterr().err
    assert measured == ["pytorch", "onnx"]
    written = json.loads(output.read_text())
    assert list(written["cases"]) == ["pytorch, 1.1x", "pytorch, 9x", "onnx, 1.1x", "onnx, 9x"]
    assert str(folder) not in written["command"] and "--weights net.pt --images photos" in written["command"]
    for source in ("pytorch", "onnx"):
        found = written["cases"][f"{source}, 1.1x"]
        assert found["original"]["agreement"] == 1 and found["depth"][0] > found["depth"][1]
        assert 0 <= found["fitted"]["agreement"] <= 1 and 0 <= found["distilled"]["top1"] <= 1
        assert found["choices"] and found["speedup"] >= 1.1 and found["comparison"]["speedup"] > 0
        assert (folder / "lite" / source / "1.1x.onnx").exists()
        assert "no plan" in written["cases"][f"{source}, 9x"]["reason"]
    assert "onnx, 1.1x" in capsys.readouterr().out
    assert command(folder, "--speedups", 1.1, 9, "--epochs", 2, "-o", output) == 0
    assert len(measured) == 2, "nothing is measured again"
    assert command(folder, "--speedups", 1.1, "--epochs", 3, "-o", output) == 2
    assert "lite.json: was measured with other settings, epochs 2 and not 3; give" in capsys.readouterr().err


def test_what_was_measured_is_read_again(folder):
    settings = efficientnet_rows.Settings("net", "net.pt", 32, 32, 16, 5)
    assert efficientnet_rows.known(None, settings) == {}
    assert efficientnet_rows.known(folder / "none.json", replace(settings, epochs=1)) == {}


def test_weights_of_another_network_are_refused(folder, capsys):
    torch.save({"0.weight": torch.zeros(1)}, folder / "net.pt")
    assert command(folder) == 2
    assert "net.pt: do not match the model" in capsys.readouterr().err
