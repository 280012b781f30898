from collections import OrderedDict

import onnx
import pytest
import torch
from torch import fx, nn

from layer_folding.export import segment_files
from layer_folding.export.segment_files import write_segments
from layer_folding.fold.models import build
from layer_folding.fold.plan.candidates import candidates, segments
from layer_folding.fold.plan.naming import Segment
from layer_folding.segment_index import read_index


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


def test_segments_in_half_precision(tmp_path):
    found = [Segment("a", fx.symbolic_trace(nn.Sequential(nn.Conv2d(3, 4, 3))), (3, 8, 8))]
    files = [write_segments(found, tmp_path, precision=name).segments[0].file for name in ("fp32", "fp16")]
    assert files[0] != files[1]
    model = onnx.load(tmp_path / files[1])
    assert {tensor.data_type for tensor in model.graph.initializer} == {onnx.TensorProto.FLOAT16}
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert {entry.key: entry.value for entry in model.metadata_props}["layer_folding.precision"] == "fp16"
