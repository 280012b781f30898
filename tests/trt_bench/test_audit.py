import json

import pytest

from trt_bench import audit
from trt_bench.errors import CheckError


def layer(name, *types, kind="CaskConvolution", key="Format/Datatype", **more):
    return {
        "Name": name,
        "LayerType": kind,
        "Inputs": [{key: t} for t in types[:-1]],
        "Outputs": [{key: types[-1]}],
        **more,
    }


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
        (("BFloat16", "BFloat16"), "bf16"),
        (("FP8", "Half"), "fp8"),
        (("Int32", "Int32"), "other"),
    ],
)
def test_types_in_the_words_of_every_version(types, precision):
    for key in ("Format/Datatype", "Datatype"):
        assert audit.precisions([layer("a", *types, key=key)]) == {precision: 1}


def test_reformats_and_names_alone_prove_nothing():
    layers = audit.layers(json.dumps({"Layers": ["only a name", layer("r", "Half", "Half", kind="Reformat")]}))
    assert audit.precisions(layers) == {"other": 1}
    with pytest.raises(CheckError, match=r"x\.onnx: is fp16, but its engine has no fp16 layer \(layers: 1 other\)"):
        audit.check("x.onnx", "fp16", audit.precisions(layers))
    with pytest.raises(CheckError, match="layers: none with a known type"):
        audit.check("x.onnx", "int8", audit.precisions([]))


def test_asked_and_got_is_no_error():
    audit.check("x.onnx", "int8", {"int8": 1, "fp32": 30})
    audit.check("x.onnx", "fp32", {"fp16": 3})
    audit.check("x.onnx", "unknown", {})


def test_fused_layers_name_all_their_modules():
    fused = "[ONNX Layer: layer1.0.conv1/Conv]\x1f[ONNX Layer: layer1.0.relu/Relu]"
    layers = [
        layer("layer1.0.conv1/Conv + layer1.0.relu/Relu", "Half", "Half", Metadata=fused),
        layer("pool/Relu_1 [profile 1]", "Half", "Half"),
        layer("Reformatting CopyNode for Input Tensor 0", "Float", "Half", kind="Reformat"),
    ]
    modules = audit.module_map(layers)
    assert modules("layer1.0.conv1/Conv + layer1.0.relu/Relu [profile 2]") == ["layer1.0.conv1", "layer1.0.relu"]
    assert modules("pool/Relu_1") == ["pool"]
    assert modules("fc/MatMul + fc/Add") == ["fc"]  # not in the inspector, named by its nodes
    assert modules("Reformatting CopyNode for Input Tensor 0") == []
