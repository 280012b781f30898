import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from layer_folding.errors import InputError
from layer_folding.export import lower
from layer_folding.fold import cost
from layer_folding.fold.models import build
from layer_folding.trt_bench import onnx_costs
from tests.trt_bench.conftest import CLASSES, save_convs


class Branches(nn.Module):
    """A grouped and a transposed convolution side by side, and linear layers on every position and at the end."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 6, 4, 2, 1, groups=3), nn.ConvTranspose2d(6, 8, 2, 2)
        self.skip, self.each, self.last = nn.Conv2d(3, 8, 1), nn.Linear(8, 5), nn.Linear(5, 2)

    def forward(self, x):
        y = self.up(self.down(x)) + self.skip(x)
        return self.last(self.each(y.flatten(2).transpose(1, 2)).mean(1))


@pytest.mark.parametrize("model", [Branches(), build("resnet20", 10, 3), build("mobilenetv2-digits", 10, 3)])
@pytest.mark.slow
def test_a_graph_counts_like_the_network_it_was_made_from(tmp_path, model):
    x = torch.zeros(2, 3, 16, 16)
    onnx.save(lower(model.eval(), x), tmp_path / "x.onnx")
    found, known = onnx_costs.network(tmp_path / "x.onnx"), cost(model, x)
    assert (found.depth, found.macs) == (known.depth, known.macs)
    assert 0.9 * known.parameters <= found.parameters <= 1.1 * known.parameters  # BatchNorms are in their convolutions


def test_what_the_exporter_wrote_is_believed(tmp_path):
    path = save_convs(tmp_path / "x.onnx", 2, metadata={"depth": "7", "precision": "fp16"})
    found = onnx_costs.network(path)
    assert (found.depth, found.precision, found.parameters) == (7, "fp16", 16 * 27 + 16 * 144 + 16 * CLASSES)
    assert found.macs == 144 * (16 * 27 + 16 * 144) + 16 * CLASSES


def test_without_the_onnx_package_it_takes_the_sizes_that_the_file_has(tmp_path, monkeypatch):
    bare = save_convs(tmp_path / "bare.onnx", 2)
    onnx.save(onnx.shape_inference.infer_shapes(onnx.load(bare)), tmp_path / "sized.onnx")
    whole = onnx_costs.network(bare)
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert onnx_costs.network(tmp_path / "sized.onnx") == whole
    found = onnx_costs.network(bare)
    assert (found.depth, found.parameters, found.macs) == (3, whole.parameters, None)


def test_weights_in_constants_and_behind_dequantisation_count_once(tmp_path):
    weight = numpy_helper.from_array(np.ones((4, 3, 1, 1), np.int8), "q")
    nodes = [
        helper.make_node("Constant", [], ["scale"], value=numpy_helper.from_array(np.float32(0.1))),
        helper.make_node("DequantizeLinear", ["q", "scale"], ["w"]),
        helper.make_node("Conv", ["x", "w"], ["y"]),
    ]
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, 5, 5])
        for name, channels in (("x", 3), ("y", 4))
    )
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [x], [y], [weight])), tmp_path / "x.onnx")
    found = onnx_costs.network(tmp_path / "x.onnx")
    assert (found.depth, found.parameters, found.macs) == (1, 12, 12 * 25)


def test_a_file_that_is_cut_off_is_one_line(tmp_path):
    path = Path(save_convs(tmp_path / "x.onnx", 2))
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(InputError, match=r"x\.onnx: not an ONNX file, or cut off"):
        onnx_costs.network(path)
