from collections import OrderedDict

import onnx
import pytest
import torch
from torch import fx, nn

from layer_folding.errors import InputError
from layer_folding.export import segment_files
from layer_folding.export.segment_files import write_segments
from layer_folding.fold.models import build
from layer_folding.fold.plan.candidates import candidates, segments
from layer_folding.fold.plan.naming import Segment
from layer_folding.segment_index import read_index


@pytest.mark.slow
def test_identical_shapes_are_written_once(tmp_path, monkeypatch):
    def conv(stride=1):
        return fx.symbolic_trace(nn.Sequential(nn.Conv2d(3, 4, 3, stride, bias=True)))

    found = [
        Segment("a:b", conv(), (3, 8, 8)),
        Segment("b:c", conv(2), (3, 8, 8)),
        Segment("c:d", conv(), (3, 8, 8)),
        Segment("d:e", conv(), (3, 9, 8)),
    ]
    index = write_segments(iter(found), tmp_path, opset=17, batch=2)
    assert [(entry.input_shape, entry.names) for entry in index.segments] == [
        ((3, 8, 8), ("a:b", "c:d")),
        ((3, 8, 8), ("b:c",)),
        ((3, 9, 8), ("d:e",)),
    ]
    assert read_index(tmp_path) == index
    names = [entry.file for entry in index.segments]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names, "segments.json"])
    for entry in index.segments:
        model = onnx.load(tmp_path / entry.file)
        assert [node.op_type for node in model.graph.node] == ["Conv"]
        assert [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim] == [2, *entry.input_shape]
        assert model.opset_import[0].version == 17
    monkeypatch.setattr(segment_files, "lower", None)  # what is there already is not exported again
    assert write_segments(found, tmp_path, opset=17, batch=2) == index


def test_names_make_no_difference(tmp_path):
    def module(name):
        return fx.symbolic_trace(nn.Sequential(OrderedDict({name: nn.Conv2d(3, 4, 3), "relu": nn.ReLU()})))

    found = [Segment("a", module("one"), (3, 8, 8)), Segment("b", module("two"), (3, 8, 8))]
    (entry,) = write_segments(found, tmp_path).segments
    assert entry.names == ("a", "b")


@pytest.mark.slow
def test_fitted_layers_take_few_more_segments_than_exact_merges_alone(tmp_path, monkeypatch):
    model, example = build("resnet20", 10).eval(), torch.zeros(1, 3, 32, 32)
    monkeypatch.setattr(segment_files, "_write", lambda segment, path, *_: path.touch())
    index = write_segments(segments(model, example), tmp_path)
    found = candidates(model, example)
    exact = {name for c in found.found if c.exact for name in (c.apart, c.exact.segment)} | {found.whole}
    assert len(index.segments) <= 2.5 * sum(bool(exact & set(entry.names)) for entry in index.segments)


@pytest.mark.slow
def test_segments_in_half_precision(tmp_path):
    found = [Segment("a", fx.symbolic_trace(nn.Sequential(nn.Conv2d(3, 4, 3))), (3, 8, 8))]
    files = [write_segments(found, tmp_path, precision=name).segments[0].file for name in ("fp32", "fp16")]
    assert files[0] != files[1]
    model = onnx.load(tmp_path / files[1])
    assert {tensor.data_type for tensor in model.graph.initializer} == {onnx.TensorProto.FLOAT16}
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert {entry.key: entry.value for entry in model.metadata_props}["layer_folding.precision"] == "fp16"


@pytest.mark.slow
def test_int8_segments_have_the_pairs_of_the_whole_network(tmp_path):
    """Of each weighted layer in the network: quantised inputs, and what it gives quantised where a layer reads it."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    index = write_segments(segments(model, torch.zeros(1, 3, 12, 12)), tmp_path, precision="int8")
    whole, first = (
        onnx.load(tmp_path / next(entry.file for entry in index.segments if name in entry.names))
        for name in ("apart 0,3", "apart 0,2")
    )
    assert [node.op_type for node in whole.graph.node].count("DequantizeLinear") == 6
    assert producer(whole, whole.graph.output[0].name) == "Conv"  # nothing reads it
    assert producer(first, first.graph.output[0].name) == "DequantizeLinear"  # the last layer does
    for model in (whole, first):
        onnx.checker.check_model(model, full_check=True)
        assert {entry.key: entry.value for entry in model.metadata_props}["layer_folding.precision"] == "int8"


@pytest.mark.slow
def test_a_segment_without_layers_has_nothing_to_quantise(tmp_path):
    found = [Segment("none", fx.symbolic_trace(nn.Sequential(nn.ReLU())), (3, 8, 8))]
    (entry,) = write_segments(found, tmp_path, precision="int8").segments
    assert [node.op_type for node in onnx.load(tmp_path / entry.file).graph.node] == ["Relu"]
    found = [Segment("none", found[0].module, (3, 8, 8), feeds_layer=True)]
    (entry,) = write_segments(found, tmp_path, precision="int8").segments
    operators = [node.op_type for node in onnx.load(tmp_path / entry.file).graph.node]
    assert operators == ["Relu", "QuantizeLinear", "DequantizeLinear"]


def test_half_scales_need_an_opset(tmp_path):
    with pytest.raises(InputError, match="QuantizeLinear takes fp16 from opset 19 on"):
        write_segments([], tmp_path, opset=17, precision="int8-fp16")


def producer(model: onnx.ModelProto, tensor: str) -> str:
    return next(node.op_type for node in model.graph.node if tensor in node.output)
