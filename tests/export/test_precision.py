"""float16 and int8 as the graph says it: each rule that TensorRT needs."""

import json

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper
from torch import nn

from layer_folding.errors import CheckError, InputError
from layer_folding.export import check, lower, max_error, simplify
from layer_folding.export.calibrate import METHODS, largest_values
from layer_folding.export.fp16 import to_fp16
from layer_folding.export.int8 import quantise
from layer_folding.export.precision import Calibration, convert, read_calibration
from tests.export.passes.test_merging import conv, node
from tests.export.test_simplifying import make

IMAGES = np.random.default_rng(0).standard_normal((40, 3, 12, 12)).astype(np.float32)


class Downsampling(nn.Module):
    """A residual block whose shortcut is a convolution too, and one whose is not; input [N,3,12,12]."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.shortcut = (
            nn.Conv2d(3, 8, 3, 2, 1),
            nn.Conv2d(8, 8, 3, 1, 1),
            nn.Conv2d(3, 8, 1, 2),
        )
        self.conv3, self.conv4, self.head = nn.Conv2d(8, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 1, 1), nn.Linear(8, 4)

    def forward(self, x):
        x = (self.shortcut(x) + self.conv2(self.conv1(x).relu())).relu()
        x = (x + self.conv4(self.conv3(x).relu())).relu()
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def residual():
    torch.manual_seed(0)
    model = Downsampling().eval()
    return model, simplify(lower(model, torch.zeros(1, 3, 12, 12)))[0]


@pytest.fixture(scope="module")
def quantised(residual):
    return quantise(residual[1], IMAGES)


def producer(graph, tensor):
    return next((n for n in graph.node if tensor in n.output), None)


def constants(graph):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def test_layers_read_activations_and_weights_through_pairs(quantised):
    graph, values = quantised.graph, constants(quantised.graph)
    layers = [n for n in graph.node if n.op_type in ("Conv", "Gemm")]
    assert len(layers) == 6
    for layer in layers:
        for index in (0, 1):
            dequantise = producer(graph, layer.input[index])
            quantise_ = producer(graph, dequantise.input[0])
            assert (dequantise.op_type, quantise_.op_type) == ("DequantizeLinear", "QuantizeLinear")
            assert dequantise.input[1:] == quantise_.input[1:]
            scale, zero = (values[name] for name in dequantise.input[1:])
            assert zero.dtype == np.int8 and not zero.any()
            assert scale.dtype == np.float32 and (scale > 0).all()
            assert scale.shape == (() if index == 0 else (values[quantise_.input[0]].shape[0],))
            axis = [a.i for a in dequantise.attribute if a.name == "axis"]
            assert axis == ([] if index == 0 else [0])
        assert layer.input[2] in values and values[layer.input[2]].dtype == np.float32  # the bias


def test_pairs_on_shortcuts_and_nowhere_before_additions(quantised):
    graph = quantised.graph
    found = {}
    for addition in (n for n in graph.node if n.op_type == "Add"):
        inputs = [producer(graph, name) for name in addition.input]
        [shortcut] = [n for n in inputs if n.op_type == "DequantizeLinear"]
        [main] = [n for n in inputs if n.op_type == "Conv"]
        found[main.name] = producer(graph, producer(graph, shortcut.input[0]).input[0]).name
    assert found.pop("conv2/Conv") == "shortcut/Conv"
    [(main, shortcut)] = found.items()
    assert (
        main == "conv4/Conv"
        and producer(graph, next(n for n in graph.node if n.name == shortcut).output[0]).op_type == "Relu"
    )


def test_weights_are_at_most_half_a_step_off(quantised, residual):
    values = constants(residual[1].graph)
    for layer in (n for n in quantised.graph.node if n.op_type == "Conv"):
        dequantise = producer(quantised.graph, layer.input[1])
        pair = producer(quantised.graph, dequantise.input[0])
        weight, scale = values[pair.input[0]], constants(quantised.graph)[pair.input[1]].reshape(-1, 1, 1, 1)
        levels = np.round(weight / scale)
        assert np.abs(levels).max() == 127
        assert np.abs(levels * scale - weight).max() <= scale.max() / 2 * 1.001


@pytest.mark.parametrize("method", METHODS)
def test_int8_computes_nearly_the_same(residual, method):
    model, simple = residual
    result = quantise(simple, IMAGES, method)
    onnx.checker.check_model(result, full_check=True)
    assert 1e-4 < check(model, result, IMAGES, tolerance=0.2, noise=False) < 0.2


def test_calibration_methods_bound_the_same_values():
    images = np.random.default_rng(0).standard_normal((64, 3, 8, 8)).astype(np.float32)
    images[0, 0, 0, 0] = 100
    nodes = [conv("x", "h", "w"), node("Relu", "h", "y")]
    model = make(nodes, ["y"], {"w": np.eye(3, dtype=np.float32)[..., None, None]}, ("n", 3, 8, 8))
    found = {method: largest_values(model, ["x", "h"], images, method) for method in METHODS}
    assert found["minmax"] == {"x": 100, "h": 100}
    for method in ("entropy", "percentile"):  # they cut off the outlier
        assert all(2 < value < 50 for value in found[method].values())


@pytest.mark.parametrize("method", METHODS)
def test_few_images_calibrate_too_and_too_few_are_refused(method):
    weight = {"w": np.eye(3, dtype=np.float32)[..., None, None]}
    images = np.linspace(-1, 3, 2 * 3 * 64, dtype=np.float32).reshape(2, 3, 8, 8)
    model = make([conv("x", "h", "w"), node("Relu", "h", "y")], ["y"], weight, ("n", 3, 8, 8))
    assert largest_values(model, ["h"], images, method)["h"] == pytest.approx(3, rel=0.2)
    fixed = make([conv("x", "h", "w"), node("Relu", "h", "y")], ["y"], weight, (4, 3, 8, 8))
    with pytest.raises(InputError, match="2 images to calibrate with, but a batch is 4"):
        largest_values(fixed, ["h"], images, method)
    with pytest.raises(CheckError, match="h is not finite"):
        largest_values(model, ["h"], images * np.float32("inf"), method)


def test_kept_layers_stay_in_float(residual):
    kept = quantise(residual[1], IMAGES, keep=["conv1/Conv", "Gemm"])
    readers = {n.name: producer(kept.graph, n.input[0]) for n in kept.graph.node if n.op_type in ("Conv", "Gemm")}
    pairs = {name for name, source in readers.items() if source is not None and source.op_type == "DequantizeLinear"}
    assert pairs == {"conv2/Conv", "conv3/Conv", "conv4/Conv", "shortcut/Conv"}
    with pytest.raises(InputError, match="no Conv, Gemm or MatMul"):
        quantise(residual[1], IMAGES, keep=["Conv", "Gemm"])


def test_fp16_computes_in_fp16_behind_a_float32_interface(exported):
    result = to_fp16(exported.simple)
    onnx.checker.check_model(result, full_check=True)
    values = [*result.graph.input, *result.graph.output]
    assert {value.type.tensor_type.elem_type for value in values} == {TensorProto.FLOAT}
    assert {t.data_type for t in result.graph.initializer if t.data_type != TensorProto.INT64} == {TensorProto.FLOAT16}
    assert [n.op_type for n in result.graph.node].count("Cast") == 2
    assert 1e-6 < check(exported.model, result, tolerance=1e-2) < 1e-2


def test_int8_with_the_rest_in_fp16(exported):
    quantised = quantise(exported.simple, IMAGES)
    result, said = convert(exported.simple, "int8-fp16", Calibration(IMAGES), [])
    onnx.checker.check_model(result, full_check=True)
    assert said["precision"] == "int8-fp16"
    values = [*result.graph.input, *result.graph.output]
    assert {value.type.tensor_type.elem_type for value in values} == {TensorProto.FLOAT}
    assert {t.data_type for t in result.graph.initializer} <= {TensorProto.FLOAT16, TensorProto.INT8, TensorProto.INT64}
    pairs, kept = ([n.op_type for n in model.graph.node if "Quantize" in n.op_type] for model in (result, quantised))
    assert pairs == kept and [n.op_type for n in result.graph.node].count("Cast") == 2
    both, alone = (max_error(exported.model, model, IMAGES, noise=False) for model in (result, quantised))
    assert both < alone + 1e-2  # fp16 adds its own rounding, and no more


def test_int8_with_the_rest_in_fp16_keeps_what_is_named_and_needs_opset_19(exported):
    result, _ = convert(exported.simple, "int8-fp16", Calibration(IMAGES), ["head/Gemm"])
    types = {t.name: t.data_type for t in result.graph.initializer}
    assert types["head.weight"] == TensorProto.FLOAT and types["stem.0.weight"] == TensorProto.FLOAT16
    older = onnx.ModelProto()
    older.CopyFrom(exported.simple)
    older.opset_import[0].version = 17
    with pytest.raises(
        InputError, match=r"int8-fp16: QuantizeLinear takes fp16 from opset 19 on, .* of opset 17; give"
    ):
        convert(older, "int8-fp16", Calibration(IMAGES), [])


def test_fp16_keeps_what_is_named(exported):
    result = to_fp16(exported.simple, keep=["head/Gemm", "ReduceMean"])
    types = {t.name: t.data_type for t in result.graph.initializer}
    assert types["head.weight"] == TensorProto.FLOAT and types["stem.0.weight"] == TensorProto.FLOAT16
    graph = gs.import_onnx(result)
    [gemm] = [n for n in graph.nodes if n.op == "Gemm"]
    [mean] = [n for n in graph.nodes if n.op == "ReduceMean"]
    assert gemm.inputs[0] is mean.outputs[0]  # not rounded in between
    assert max_error(exported.model, result) < 1e-2


def test_weights_beyond_fp16_are_refused_by_name(exported):
    large = onnx.ModelProto()
    large.CopyFrom(exported.simple)
    [weight] = [t for t in large.graph.initializer if t.name == "head.weight"]
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1e6), weight.name))
    with pytest.raises(CheckError, match=r"head.weight goes up to .*beyond float16 \(65504\); --keep head/Gemm"):
        to_fp16(large)
    to_fp16(large, keep=["head/Gemm"])


def test_calibration_is_recorded_and_repeatable(residual, tmp_path):
    rng = np.random.default_rng(0)
    ones = np.ones(3, np.float32)
    images = rng.integers(0, 256, (30, 3, 12, 12), np.uint8)
    np.savez(tmp_path / "calib.npz", images=images, labels=np.zeros(30, np.int64), mean=ones / 2, std=ones / 4)
    calibration = read_calibration(tmp_path / "calib.npz", "minmax", 20, 3)
    (first, said), (second, _) = (convert(residual[1], "int8", calibration, []) for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)
    assert said["precision"] == "int8"
    assert json.loads(said["calibration"]) == {"method": "minmax", "images": 20, "seed": 3}
    other = read_calibration(tmp_path / "calib.npz", "minmax", 20, 4).images
    assert calibration.images.shape == (20, 3, 12, 12) and not np.array_equal(other, calibration.images)


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_random_networks_quantise_in_any_layer_kind(seed):
    """Within what half a step of each value and each weight can make at the output, whatever is drawn."""
    draw = np.random.default_rng(seed)
    w, v, b, x = (draw.standard_normal(shape) for shape in [(4, 6, 3, 3), (6, 5), (5,), (8, 4, 6, 6)])
    nodes = [
        node("ConvTranspose", "x", "w", "h"),
        node("Transpose", "h", "t", perm=[0, 2, 3, 1]),
        node("MatMul", "t", "v", "m"),
        node("Add", "m", "b", "y"),
    ]
    model = make(nodes, ["y"], {name: value.astype(np.float32) for name, value in (("w", w), ("v", v), ("b", b))})
    images = x.astype(np.float32)
    result = quantise(model, images, "minmax")
    onnx.checker.check_model(result, full_check=True)

    def transposed(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return F.conv_transpose2d(torch.from_numpy(values), torch.from_numpy(weights)).numpy().transpose(0, 2, 3, 1)

    half = 0.5 / 127  # of a step, by the largest value
    w_off = np.broadcast_to(half * np.abs(w).max((0, 2, 3), keepdims=True), w.shape).copy()
    x_off = np.full_like(x, half * np.abs(x).max())
    t = transposed(x, w)
    t_off = transposed(x_off, np.abs(w)) + transposed(np.abs(x) + x_off, w_off) + half * np.abs(t).max()
    y_off = t_off @ np.abs(v) + (np.abs(t) + t_off) @ np.broadcast_to(half * np.abs(v).max(0), v.shape)
    bound = y_off.max() / np.abs(t @ v + b).max()
    assert bound < 0.5
    assert max_error(model, result, images, noise=False) < bound + 1e-5  # rounding of float32


def test_inverted_residuals(exported):
    result = quantise(exported.simple, IMAGES, "minmax")
    additions = [n for n in result.graph.node if n.op_type == "Add"]
    for addition in additions:
        kinds = sorted(producer(result.graph, name).op_type for name in addition.input)
        assert kinds == ["Conv", "DequantizeLinear"]
    assert max_error(exported.model, result, IMAGES, noise=False) < 0.3
