"""What int8 costs by layer, and int8 within a drop of accuracy."""

import csv
import json

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from layer_folding.command_line import run
from layer_folding.errors import CheckError, InputError
from layer_folding.evalset import EvalSet
from layer_folding.export import commands, lower, simplify
from layer_folding.export.accuracy_control import control
from layer_folding.export.int8 import quantisable, quantise, quantise_only, ranges
from layer_folding.export.precision import Calibration, convert
from layer_folding.export.sensitivity import sensitivity
from layer_folding.export.verifying import outputs_of

SHAPE = (3, 8, 8)


class Outlier(nn.Module):
    """Its second layer reads a channel that is 3000 times as large as the others, and hardly uses it."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 1, bias=False), nn.Conv2d(6, 6, 1, bias=False)
        self.head = nn.Linear(384, 4, bias=False)
        with torch.no_grad():
            self.first.weight[0] *= 3000
            self.second.weight[:, 0] = 0

    def forward(self, x):
        return self.head(self.second(self.first(x)).relu().flatten(1))


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (96, *SHAPE), np.uint8)


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    torch.manual_seed(0)
    return simplify(lower(Outlier().eval(), torch.zeros(1, *SHAPE)), ["fold-linear"])[0]  # which would merge the two


@pytest.fixture(scope="module")
def evalset(model, images) -> EvalSet:
    """Labelled with what the network says, so that it has all of them right."""
    half = np.full(3, 0.5, np.float32)
    unlabelled = EvalSet(images, np.zeros(len(images), np.int64), half, half)
    return EvalSet(images, outputs_of(model, unlabelled.inputs())[0].argmax(1), half, half)


@pytest.fixture(scope="module")
def calibration(evalset) -> Calibration:
    return Calibration(evalset.inputs())


def pairs(model: onnx.ModelProto) -> int:
    return sum(node.op_type == "QuantizeLinear" for node in model.graph.node)


def test_every_output_counts_by_its_own_size():
    """Scores beside boxes: in int8, the last layer of the scores is what costs the scores most."""

    class Detector(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.boxes, self.scores = (nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1))
            with torch.no_grad():
                self.boxes.weight *= 1000

        def forward(self, x):
            x = self.stem(x).relu()
            return self.boxes(x), self.scores(x)

    images = np.random.default_rng(0).standard_normal((64, *SHAPE), dtype=np.float32)
    found = sensitivity(simplify(lower(Detector().eval(), torch.zeros(1, *SHAPE)))[0], Calibration(images))
    costs = {each.layer: each.alone for each in found.layers}
    assert costs["scores/Conv"] > 1e-3 and 0.1 < costs["scores/Conv"] / costs["boxes/Conv"] < 10


def test_the_layer_that_suffers_comes_first(model, calibration):
    found = sensitivity(model, calibration)
    assert {each.layer for each in found.layers} == set(quantisable(model)) and len(found.layers) == 3
    worst, *others = found.layers
    assert worst.layer.startswith("second") and found.images == 96
    assert all(worst.alone > 10 * each.alone for each in others)
    assert worst.others < 0.2 * found.whole and all(each.others > 0.5 * found.whole for each in others)


def test_chosen_layers_alone_have_their_pairs(model, calibration):
    names, largest = quantisable(model), ranges(model, calibration.images)
    assert pairs(quantise_only(model, names, largest)) == pairs(quantise(model, calibration.images)) == 6
    assert [pairs(quantise_only(model, {name}, largest)) for name in names] == [2, 2, 2]
    assert pairs(quantise_only(model, (), largest)) == 0


def test_the_layers_that_cost_most_stay_out_until_the_bound_holds(model, calibration, evalset):
    kept = control(model, calibration, evalset, 5.0)
    assert kept.drop <= 5 and len(kept.layers) == 1 and kept.layers[0].startswith("second")
    assert control(model, calibration, evalset, 100.0).layers == ()
    written, said = convert(model, "int8-fp16", calibration, (), kept.layers)
    assert pairs(written) == 4 and json.loads(said["calibration"])["unquantised"] == list(kept.layers)
    second = next(node for node in written.graph.node if node.name == kept.layers[0])
    weight = next(each for each in written.graph.initializer if each.name == second.input[1])
    assert weight.data_type == onnx.TensorProto.FLOAT16


def test_a_bound_that_holds_only_without_int8_is_refused(model, calibration, evalset):
    with pytest.raises(CheckError, match="even with 2 of 3 layers in float, above the -1 of --max-drop"):
        control(model, calibration, evalset, -1.0)
    with pytest.raises(InputError, match="is left to quantise"):
        control(model, calibration, evalset, 1.0, keep=["Conv", "Gemm"])


def call(*arguments: object) -> int:
    return run(lambda: commands.main([*map(str, arguments)]))


@pytest.fixture
def files(tmp_path, model, evalset):
    onnx.save(model, tmp_path / "net.onnx")
    for name in ("calib.npz", "eval.npz"):
        np.savez(tmp_path / name, **vars(evalset))
    return tmp_path


def test_the_commands(files, capsys):
    assert call("sensitivity", files / "net.onnx") == 0
    out = capsys.readouterr().out
    with open(files / "net.sensitivity.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 2 and out.splitlines()[2].split()[0] == rows[0]["layer"]
    assert [float(row["alone"]) for row in rows] == sorted((float(row["alone"]) for row in rows), reverse=True)
    assert (files / "net.sensitivity.png").read_bytes().startswith(b"\x89PNG")
    assert out.splitlines()[-1].startswith(f"wrote {files / 'net.sensitivity.csv'}")
    bound = ("--skip", "fold-linear", "--data", files / "eval.npz", "--max-drop", 5)
    assert call("export", files / "net.onnx", "-o", files / "out.onnx", "--precision", "int8", *bound) == 0
    assert "points with 1 layers out of int8: second" in capsys.readouterr().out


def test_bad_input_is_one_line(files, capsys):
    out, bare = (files / "net.onnx", "-o", files / "out.onnx"), files / "bare.npz"
    with np.load(files / "eval.npz") as images:
        np.savez(bare, **{name: images[name] for name in ("images", "mean", "std")})
    for given, message in {
        ("export", *out, "--max-drop", 1, "--precision", "int8"): "--max-drop: is about int8",
        ("export", *out, "--max-drop", 1, "--data", files / "eval.npz"): "--max-drop: is about int8",
        ("export", *out, "--max-drop", 1, "--data", bare, "--precision", "int8"): f"labels, and {bare} has none; leave",
        ("sensitivity", files / "net.onnx", "--data", files / "none.npz"): "--data: ",
        ("sensitivity", files / "none.onnx"): "none.onnx",
        ("sensitivity", files / "net.onnx", "-o", files / "net.onnx"): "-o ",
    }.items():
        assert call(*given) == 2
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1, err
