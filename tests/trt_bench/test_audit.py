import json

import pytest

from layer_folding.bench_results import WeightedLayers
from layer_folding.errors import CheckError
from layer_folding.trt_bench import audit, engine_layers


def layer(name, *types, kind="CaskConvolution", key="Format/Datatype", **more):
    """A layer as the engine inspector tells it."""
    entry = {
        "Name": name,
        "LayerType": kind,
        "Inputs": [{key: t} for t in types[:-1]],
        "Outputs": [{key: types[-1]}],
        **more,
    }
    return inspected(entry)[0]


def inspected(*entries):
    return engine_layers.of_inspector(json.dumps({"Layers": entries}))


@pytest.mark.parametrize(
    ("types", "precision"),
    [
        (("Row major linear FP32", "Row major linear FP32"), "fp32"),
        (("Row major linear FP16 format", "Two wide channel vectorized row major FP16 format"), "fp16"),
        (("Thirty-two wide channel vectorized row major Int8 format.",) * 2, "int8"),
        (("Float", "Float"), "fp32"),
        (("Half", "Half"), "fp16"),
        (("Half", "Float"), "fp16"),
        (("Int8", "Half"), "int8"),
        (("Half", "Int8"), "fp16"),
        (("BFloat16", "BFloat16"), "bf16"),
        (("FP8", "Half"), "fp8"),
        (("Int32", "Int32"), "other"),
    ],
)
def test_types_in_the_words_of_every_version(types, precision):
    for key in ("Format/Datatype", "Datatype"):
        assert audit.precisions([layer("a", *types, key=key)]) == {precision: 1}


def test_a_layer_without_weights_has_the_smallest_type_of_all():
    assert audit.precisions([layer("q", "Float", "Int8", kind="PointWiseV2")]) == {"int8": 1}


def test_reformats_and_names_alone_prove_nothing():
    layers = [*inspected("only a name"), layer("r", "Half", "Half", kind="Reformat")]
    assert audit.precisions(layers) == {"other": 1} and audit.weighted(layers, "fp16", {"convolution": 1}) == ()
    with pytest.raises(CheckError, match=r"x\.onnx: is fp16, but its engine has no fp16 layer \(layers: 1 other\)"):
        audit.check("x.onnx", "fp16", audit.precisions(layers), ())
    with pytest.raises(CheckError, match="layers: none with a known type"):
        audit.check("x.onnx", "int8", {}, ())


def test_layers_that_quantise_make_no_int8_network():
    """What counts are the layers with weights: here 1 of 3 convolutions, and the product, in words of two versions."""
    layers = [
        *(layer(f"q{index}", "Float", "Int8", kind="PointWiseV2") for index in range(9)),
        layer("c0", "Int8", "Float"),
        layer("c1", "Float", "Int8"),
        layer("c2", "Float", "Float", kind="Convolution"),
        layer("fc", "Int8", "Float", kind="gemm"),
        layer("r", "Int8", "Int8", kind="kgen", ParameterType="Pooling"),
    ]
    found = audit.weighted(layers, "int8", {"convolution": 3, "matrix product": 1})
    assert found == (WeightedLayers("convolution", 3, 3, 1), WeightedLayers("matrix product", 1, 1, 1))
    assert audit.in_words(found, "int8") == "1 of 3 convolutions and 1 of 1 matrix product in int8"
    audit.check("x.onnx", "int8", audit.precisions(layers), found)
    none = audit.weighted(layers[:9] + layers[10:12], "int8", {"convolution": 2})
    with pytest.raises(CheckError, match=r"x\.onnx: is int8, but its engine has 0 of 2 convolutions in int8; this GPU"):
        audit.check("x.onnx", "int8", audit.precisions(layers), none)


def test_asked_and_got_is_no_error():
    audit.check("x.onnx", "int8", {"int8": 1, "fp32": 30}, ())
    audit.check("x.onnx", "fp32", {"fp16": 3}, (WeightedLayers("convolution", 3, 3, 0),))
    audit.check("x.onnx", "unknown", {}, ())


def test_an_engine_for_several_batch_sizes_has_each_layer_once():
    layers = [layer("c/Conv", "Half", "Half"), layer("c/Conv [profile 1]", "Half", "Half")]
    assert audit.weighted(layers, "fp16", {"convolution": 1}) == (WeightedLayers("convolution", 1, 1, 1),)
