import json

from layer_folding.trt_bench import engine_layers

# Two of the layers that end the build log of TensorRT-RTX 1.7.1.116.
LOG = """Layers:
Name: __myl_Move_myl0_0, LayerType: kgen, Inputs: [ { Name: input, Dimensions: [1,1,32,32], Strides: [1024,1024,32,1], \
StrideOrder: [3,2,1,0], Datatype: Float, Format: (Linear) Row major linear format }], Constants: [], Outputs: [ { \
Name: a.1_2_myl0, Dimensions: [1,1,32,32], Strides: [1024,1,32,1], StrideOrder: [3,0,2,1], Datatype: Int8, Format: \
(NHWC) Channel major format }], TacticName: __myl_Move_0x29, StreamId: 0, Metadata:\x20
Name: stem.conv/Conv_myl0_1, LayerType: correlation, Inputs: [ { Name: a.1_2_myl0, Dimensions: [1,4,32,32], Strides: \
[4096,1,128,4], StrideOrder: [3,0,2,1], Datatype: Int8, Format: (NHWC) Channel major format }], Constants: [ { Name: \
__mye1554dconst_myl0, Dimensions: [16,1,3,3], Strides: [9,1,3,1], StrideOrder: [3,0,2,1], Datatype: Half, Format: \
(NHWC) Channel major format }], Outputs: [ { Name: b.1_3_myl0, Dimensions: [1,16,16,16], Strides: [4096,1,256,16], \
StrideOrder: [3,0,2,1], Datatype: Float, Format: (NHWC) Channel major format }], TacticName: __myelin_CASK_STUB, \
StreamId: 0, Metadata: [ONNX Layer: stem.conv/Conv][ONNX Layer: stem.act/Clip]

I/O Tensors:
 Name: input, IOMode: Input, DataType: Float, Dimensions: [1,1,32,32], Location: Device
"""


def test_the_build_log_ends_in_the_layers():
    move, conv = engine_layers.of_build_log(LOG)
    assert (move.kind, move.inputs, move.outputs, move.nodes) == ("kgen", ("Float",), ("Int8",), ())
    assert conv.name == "stem.conv/Conv_myl0_1" and conv.kind == "correlation"
    assert (conv.inputs, conv.outputs, conv.modules) == (("Int8",), ("Float",), ["stem.act", "stem.conv"])


def test_a_log_without_the_list_has_no_layers():
    assert engine_layers.of_build_log("") == []


def test_fused_layers_name_all_their_modules():
    fused = "[ONNX Layer: layer1.0.conv1/Conv]\x1f[ONNX Layer: layer1.0.relu/Relu]"
    entries = [
        {"Name": "layer1.0.conv1/Conv + layer1.0.relu/Relu", "LayerType": "CaskConvolution", "Metadata": fused},
        {"Name": "pool/Relu_1 [profile 1]", "LayerType": "PointWiseV2"},
        {"Name": "Reformatting CopyNode for Input Tensor 0", "LayerType": "Reformat"},
    ]
    modules = engine_layers.module_map(engine_layers.of_inspector(json.dumps({"Layers": entries})))
    assert modules("layer1.0.conv1/Conv + layer1.0.relu/Relu [profile 2]") == ["layer1.0.conv1", "layer1.0.relu"]
    assert modules("pool/Relu_1") == ["pool"]
    assert modules("fc/MatMul + fc/Add") == ["fc"]  # not in the inspector, named by its nodes
    assert modules("Reformatting CopyNode for Input Tensor 0") == []
