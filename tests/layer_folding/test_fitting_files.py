"""An ONNX file in, a faster ONNX file out: with the names, the opset and the metadata of the first."""

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import layer_folding as lf
from layer_folding import fitting_files
from layer_folding.command_line import run
from layer_folding.errors import InputError
from layer_folding.fold.fitting.sides import RefusedFit
from layer_folding.fold.plan.fit_importances import going_on
from layer_folding.train import commands
from layer_folding.train.unlabelled import read_images
from tests.fold.networks import randomised
from tests.fold.onnx_in.test_onnx_networks import Residual

pytest.importorskip("onnx2torch", reason="needs onnx2torch")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    (folder / "nested").mkdir()
    for number in range(64):
        pixels = random.integers(0, 256, (20, 24, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / ("nested" if number % 2 else ".") / f"{number}.png")
    return folder


@pytest.fixture
def file(tmp_path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "net.onnx"
    lf.export(randomised(Residual()).eval(), torch.rand(1, 3, 16, 16), path, opset=17)
    model = onnx.load(path)
    for node in model.graph.node:
        node.input[:] = ["pixels" if name == "input" else name for name in node.input]
        node.output[:] = ["scores" if name == "logits" else name for name in node.output]
    model.graph.input[0].name, model.graph.output[0].name = "pixels", "scores"
    onnx.helper.set_model_props(model, {"classes": "cat dog"})
    onnx.save(model, path)
    return path


@pytest.mark.slow
@pytest.mark.alone
def test_from_file_to_faster_file(file, images, capsys):
    output = file.with_name("faster.onnx")
    arguments = ["fit", str(file), "--images", str(images), "-o", str(output), "--runtime", "onnxruntime", "--force"]
    arguments += ["--epochs", "1"]
    assert run(lambda: commands.main(arguments)) == 0
    said = capsys.readouterr().out
    assert "layers, " in said
    assert re.search(r"not fitted on: divergence \S+, the same class for \S+ %; after distillation \S+, the same", said)
    faster = onnx.load(output)
    assert (faster.graph.input[0].name, faster.graph.output[0].name) == ("pixels", "scores")
    assert faster.opset_import[0].version == 17
    assert {entry.key: entry.value for entry in faster.metadata_props}["classes"] == "cat dog"
    kept = output.with_suffix(".fit")
    assert {"latency.csv", "plan.json"} <= {path.name for path in kept.iterdir()}
    (first,) = kept.glob("importance-*.csv")
    assert run(lambda: commands.main([*arguments, "--mean", "0.1", "0.1", "0.1"])) == 0  # other images for the network
    assert len({*kept.glob("importance-*.csv")} - {first}) == 1


@pytest.mark.slow
@pytest.mark.alone
def test_a_plan_whose_fit_is_refused_is_made_again_without_it(file, images, capsys, monkeypatch):
    """Alone, each fit is better than a constant; behind others a fit may not be."""
    fit, first = fitting_files.fit, []

    def refusing(model, images, plan, **given):
        if not first:
            first.extend(plan.choices)
            raise RefusedFit(first[0], 1.01)
        assert first[0] not in plan.choices
        return fit(model, images, plan, **given)

    monkeypatch.setattr(fitting_files, "fit", refusing)
    output = file.with_name("faster.onnx")
    arguments = ["fit", str(file), "--images", str(images), "-o", str(output), "--runtime", "onnxruntime", "--force"]
    assert run(lambda: commands.main(arguments)) == 0
    assert f"note: {first[0]} is left out: " in capsys.readouterr().err
    assert str(first[0]) not in (output.with_suffix(".fit") / "plan.json").read_text() and output.exists()


@pytest.mark.slow
def test_an_interrupted_importance_goes_on(file, images, tmp_path):
    model, seen = lf.load(file).eval(), read_images(images, (16, 16), (0, 0, 0), (1, 1, 1), count=48)
    whole = lf.importance(model, seen)
    assert len(whole.fits) > 2
    kept, said = [], []

    def stop_after_two(found: lf.Importance) -> None:
        kept.append(dict(found.fits))
        if len(kept) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        going_on(model, seen, None, None, {}, stop_after_two, said.append)
    assert [len(fits) for fits in kept] == [1, 2]
    again: list[str] = []
    resumed = going_on(model, seen, None, None, kept[-1], lambda found: None, again.append)
    assert (resumed.fits, resumed.unit) == (whole.fits, whole.unit)
    assert again[0].startswith("fit 3 of ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--images", "photos"], "has no name for the faster file; give -o FILE.onnx"),
        (["-o", "faster.onnx"], "has no images to fit to; give --images DIR"),
        (["--images", "photos", "-o", "faster.onnx"], "--images photos: is not a folder"),
    ],
)
def test_what_is_missing_is_named(file, words, message, capsys, monkeypatch):
    monkeypatch.chdir(file.parent)
    assert run(lambda: commands.main(["fit", "net.onnx", *words])) == 2
    assert message in capsys.readouterr().err


def test_epochs_are_of_a_file(tmp_path, capsys):
    assert run(lambda: commands.main(["fit", str(tmp_path), "--choose", "relu=3", "--epochs", "2"])) == 2
    assert "--epochs is for an ONNX file; `layer-folding finetune`" in capsys.readouterr().err


def test_images_of_any_folder(images, tmp_path):
    mean, std = (0.5, 0.25, 0.0), (0.5, 1.0, 2.0)
    drawn = read_images(images, (16, 12), mean, std, count=40)
    assert drawn.shape == (40, 3, 16, 12) and drawn.dtype == torch.float32
    assert drawn[:, 0].min() >= -1 and drawn[:, 2].max() <= 0.5
    assert torch.equal(drawn, read_images(images, (16, 12), mean, std, count=40))
    with pytest.raises(InputError, match="has no image files"):
        read_images(tmp_path, (16, 16), mean, std, count=4)
