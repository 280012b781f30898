import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from layer_folding.command_line import run
from layer_folding.errors import InputError
from layer_folding.export import commands as command
from layer_folding.export import max_error
from layer_folding.export.converting import with_batch, with_opset
from tests.export.passes.test_merging import conv, node
from tests.export.test_onnx_reading import network
from tests.export.test_simplifying import make, normal


def opset(model: onnx.ModelProto) -> int:
    return next(entry.version for entry in model.opset_import if entry.domain == "")


@pytest.mark.parametrize("wanted", [15, 17, 18, 20, 21])
def test_an_opset_is_converted_and_the_function_stays(wanted):
    model = network()
    converted = with_opset(model, wanted)
    assert opset(converted) == wanted and max_error(model, converted) < 1e-6


def test_a_reduction_goes_down_to_17_as_that_opset_writes_it():
    axes = np.array([2, 3], np.int64)
    model = make([node("ReduceMean", "x", "axes", "y", keepdims=0)], ["y"], {"axes": axes})
    converted = with_opset(model, 17)
    assert opset(converted) == 17 and len(converted.graph.node[0].input) == 1
    assert max_error(model, converted) < 1e-6


def test_what_an_opset_cannot_express_is_refused():
    gelu = make([node("Gelu", "x", "y")], ["y"])
    with pytest.raises(InputError, match="--opset 17: "):
        with_opset(gelu, 17)
    with pytest.raises(InputError, match=r"--opset 13: .*\(No Adapter From Version .* for BatchNormalization\)"):
        with_opset(network(), 13)
    with pytest.raises(InputError, match="--opset 12: export takes opsets 13 to"):
        with_opset(gelu, 12)


def test_an_open_batch_is_fixed_and_a_fixed_one_stays():
    fixed = with_batch(network(), 4)
    (entry,) = onnxruntime.InferenceSession(fixed.SerializeToString()).get_inputs()
    assert entry.shape[0] == 4 and fixed.graph.output[0].type.tensor_type.shape.dim[0].dim_value == 4
    with pytest.raises(InputError, match="--batch 8: the batch size of x is 4 in the file"):
        with_batch(fixed, 8)


def test_the_command_converts_files_that_are_too_old_as_they_are(tmp_path, capsys):
    new = make([conv("x", "h", "v", pads=[1] * 4), node("Relu", "h", "y")], ["y"], {"v": normal(6, 4, 3, 3)})
    old = helper.make_model(new.graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=7)
    onnx.save(old, tmp_path / "old.onnx")

    def export(*options: object) -> int:
        arguments = ["export", tmp_path / "old.onnx", "-o", tmp_path / "new.onnx", *options]
        return run(lambda: command.main([str(each) for each in arguments]))

    assert export() == 2 and "opset 11; export takes opsets 13 to" in capsys.readouterr().err
    assert export("--opset", 17, "--batch", 2) == 0
    new = onnx.load(tmp_path / "new.onnx")
    assert opset(new) == 17 and new.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 2
    assert new.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
