"""What is read from a network definition, which fake_tensorrt makes of an ONNX file."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from layer_folding.bench_results import WeightedLayers
from layer_folding.errors import CheckError
from layer_folding.trt_bench import binding, building
from tests.trt_bench.conftest import save, save_quantised_convs, save_typed


def parsed(path, precision="int8"):
    options = building.BuildOptions(precision=precision)
    built = building.build(binding.find("tensorrt"), path, path.read_bytes(), options)
    return built.notes.parsed


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_precision_of_layers_with_weights(install, tmp_path, precision):
    install()
    save_typed(tmp_path / "x.onnx", precision)
    assert parsed(tmp_path / "x.onnx", precision).weighted_layers == (WeightedLayers("matrix product", 1, 1, 1),)


def test_pairs_that_serve_a_layer(install, tmp_path):
    install()
    save_quantised_convs(tmp_path / "x.onnx", 3)
    found = parsed(tmp_path / "x.onnx")
    assert found.weighted_layers == (WeightedLayers("convolution", 3, 3, 3),)
    assert (found.pairs, found.alone) == (6, ())  # of what each convolution reads, and of its weights


def lonely(path):
    """A quantised convolution, and a pair in front of an activation."""
    constants = {"scale": np.float32(0.05), "zero": np.int8(0), "w": np.full((3, 3, 1, 1), 2, np.int8)}
    pair = [
        ("QuantizeLinear", ["x", "scale", "zero"], ["q"], "q"),
        ("DequantizeLinear", ["q", "scale", "zero"], ["d"], "d"),
        ("DequantizeLinear", ["w", "scale", "zero"], ["v"], "v"),
        ("Conv", ["d", "v"], ["c"], "c"),
        ("QuantizeLinear", ["c", "scale", "zero"], ["r"], "r"),
        ("DequantizeLinear", ["r", "scale", "zero"], ["s"], "lonely"),
        ("Relu", ["s"], ["y"], "act"),
    ]
    nodes = [helper.make_node(kind, inputs, outputs, name) for kind, inputs, outputs, name in pair]
    shape = ("N", 3, 4, 4)
    weights = {name: np.asarray(value) for name, value in constants.items()}
    return save(path, nodes, weights, shape, shape, {"precision": "int8"})


def test_a_pair_that_serves_no_layer_is_named_and_warned_of(install, run, tmp_path):
    install()
    path = lonely(tmp_path / "x.onnx")
    assert parsed(tmp_path / "x.onnx").alone == ("lonely",)
    code, out, err = run("build", path)
    assert (code, err) == (0, "")
    assert "\n  as parsed: 1 of 1 convolution in int8; 3 values quantised, 1 of them for nothing\n" in out
    assert f"warning: {path}: no layer with weights and no sum reads what lonely dequantises; it costs time" in out


def test_weights_that_are_not_quantised_make_no_int8_layer(install, tmp_path):
    install()
    save_quantised_convs(tmp_path / "x.onnx", 2)
    model = onnx.load(tmp_path / "x.onnx")
    for node in model.graph.node:
        if node.op_type == "Conv":
            node.input[1] = "plain"
    model.graph.initializer.append(onnx.helper.make_tensor("plain", TensorProto.FLOAT, (3, 3, 3, 3), [0.1] * 81))
    onnx.save(model, tmp_path / "x.onnx")
    with pytest.raises(CheckError, match=r"is int8, but TensorRT's parser finds 0 of 2 convolutions in int8; export"):
        parsed(tmp_path / "x.onnx")
