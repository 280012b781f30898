import math

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from layer_folding.errors import CheckError, InputError
from layer_folding.export import check, max_error


def tampered(proto: onnx.ModelProto, factor: float) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(proto)
    [bias] = [tensor for tensor in copied.graph.initializer if tensor.name == "head.bias"]
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) * np.float32(factor), "head.bias"))
    return copied


def test_exported_network_matches(exported, tmp_path):
    images = np.random.default_rng(1).uniform(-2, 2, (70, 3, 12, 12)).astype(np.float32)
    path = tmp_path / "net.onnx"
    onnx.save(exported.simple, path)
    for model in (exported.lowered, exported.simple, path):
        assert check(exported.model, model, images) < 2e-6


def test_tampered_weights_fail_with_the_measured_error(exported):
    wrong = tampered(exported.simple, 1.5)
    error = max_error(exported.model, wrong)
    assert error > 1e-3
    with pytest.raises(CheckError, match=f"{error:.2e} .* tolerance 1e-04"):
        check(exported.model, wrong)
    assert check(exported.model, wrong, tolerance=error) == error  # the smallest tolerance that passes


def test_real_images_count(exported):
    # Not visible in noise: too far out for it.
    images = np.full((3, 3, 12, 12), np.nan, np.float32)
    assert math.isnan(max_error(exported.model, exported.simple, images))
    with pytest.raises(CheckError):
        check(exported.model, exported.simple, images)


def test_what_is_not_finite_fails(exported):
    with pytest.raises(CheckError, match="nan"):
        check(exported.model, tampered(exported.simple, math.inf))


def test_broken_graph_is_one_line(exported):
    broken = tampered(exported.simple, 1)
    broken.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(CheckError, match="ONNX Runtime cannot run") as caught:
        max_error(exported.model, broken)
    assert "\n" not in str(caught.value)


class Heads(nn.Module):
    """Two convolutions, whose values ``pack`` returns in some form."""

    def __init__(self, pack):
        super().__init__()
        self.first, self.second, self.pack = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 2, 1), pack

    def forward(self, x):
        return self.pack(self.first(x), self.second(x))


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    """The state of two heads, and their ONNX file with two outputs."""
    torch.manual_seed(0)
    model = Heads(lambda a, b: (a, b)).eval()
    path = tmp_path_factory.mktemp("heads") / "heads.onnx"
    torch.onnx.export(model, (torch.rand(1, 3, 8, 8),), path, dynamo=True, verbose=False)
    return model.state_dict(), path


@pytest.mark.parametrize(
    "pack", [lambda a, b: {"a": a, "b": b}, lambda a, b: {"a": [a], "b": (b,)}], ids=["dict", "nested"]
)
def test_outputs_in_a_dict_are_compared_one_by_one(heads, pack):
    model = Heads(pack)
    model.load_state_dict(heads[0])
    assert check(model, heads[1]) < 1e-6
    model.second.bias.data += 1
    with pytest.raises(CheckError, match="differ by"):
        check(model, heads[1])


@pytest.mark.parametrize(
    ("pack", "error", "message"),
    [
        (lambda a, b: a, CheckError, "ONNX Runtime gives 2 outputs, and the original 1"),
        (lambda a, b: {"a": a, "b": None}, InputError, "the network returns a NoneType; give one that returns tensors"),
    ],
    ids=["fewer", "none"],
)
def test_outputs_that_cannot_be_compared_are_one_line(heads, pack, error, message):
    model = Heads(pack)
    model.load_state_dict(heads[0])
    with pytest.raises(error, match=message):
        check(model, heads[1])
