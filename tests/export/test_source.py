"""Files from anywhere: a whole network is read, anything else is one line and exit code 2."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from export import __main__ as command
from export.source import read_onnx
from fold.cli import run
from fold.errors import InputError
from tests.export.test_merge import conv, node
from tests.export.test_passes import make, norm, norm_node, normal


def export(*arguments):
    return run(lambda: command.main([str(argument) for argument in arguments]))


def network(**changes) -> onnx.ModelProto:
    constants = {"v": normal(6, 4, 3, 3), "w": normal(5, 6, 1, 1), **norm(6)}
    nodes = [conv("x", "h", "v", pads=[1] * 4), norm_node("h", "n"), conv("n", "c", "w"), node("Relu", "c", "y")]
    return make(nodes, ["y"], constants, **changes)


def out_of_range(tmp_path):
    model = network()
    onnx.save(model, tmp_path / "net.onnx", save_as_external_data=True, location="data.bin", size_threshold=0)
    (tmp_path / "data.bin").write_bytes(b"short")


def outside(location):
    def write(tmp_path):
        folder = tmp_path / "net.onnx"
        (tmp_path.parent / "secret.bin").write_bytes(bytes(6 * 4 * 9 * 4))
        model = network()
        weight = next(tensor for tensor in model.graph.initializer if tensor.name == "v")
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value=location.format(parent=tmp_path.parent))
        folder.write_bytes(model.SerializeToString())

    return write


def link(tmp_path):
    outside("link.bin")(tmp_path)
    (tmp_path / "link.bin").symlink_to(tmp_path.parent / "secret.bin")


def changed(change):
    def write(tmp_path):
        model = network()
        change(model)
        (tmp_path / "net.onnx").write_bytes(model.SerializeToString())

    return write


def huge_tensor(model):
    tensor = model.graph.initializer.add(name="huge", data_type=TensorProto.FLOAT, raw_data=b"1234")
    tensor.dims.extend([1 << 40, 1 << 20])


def huge_input(model):
    model.CopyFrom(network(input_shape=(1, 4, 1 << 50, 6)))


def huge_fill(model):
    model.graph.initializer.append(numpy_helper.from_array(np.array([1 << 20, 1 << 20, 1 << 10]), "size"))
    model.graph.node.insert(0, node("ConstantOfShape", "size", "fill"))
    model.graph.node.append(node("ReduceSum", "fill", "z"))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))


def wrong_size(model):
    model.graph.initializer[0].dims[0] = 7


def old(model):
    model.opset_import[0].version = 7


def future(model):
    model.opset_import[0].version = 999


def foreign(model):
    model.graph.node[0].domain = "com.example"
    model.opset_import.add(domain="com.example", version=1)


def loose(model):
    model.graph.node[0].input[0] = "nowhere"


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "no such file"),
        (lambda path: (path / "net.onnx").write_bytes(b""), "without a network"),
        (lambda path: (path / "net.onnx").write_bytes(b"\x89PNG\r\n\x1a\n" * 9), "not an ONNX file"),
        (
            lambda path: (path / "net.onnx").write_bytes(network().SerializeToString()[:-100]),
            "cut off|without a network",
        ),
        (out_of_range, "is not in 'data.bin' as it says"),
        (outside("../secret.bin"), "outside of its folder"),
        (outside("{parent}/secret.bin"), "outside of its folder"),
        (outside("missing.bin"), "which is not there"),
        (link, "outside of its folder"),
        (changed(huge_tensor), "more than 2 GB"),
        (changed(huge_input), "more than 2 GB"),
        (changed(huge_fill), "more than 2 GB"),
        (changed(wrong_size), "but its data is not"),
        (changed(old), "opset 7; export takes opsets 13 to"),
        (changed(future), "opset 999; export takes"),
        (changed(foreign), "com.example"),
        (changed(loose), "not a valid network"),
    ],
)
def test_what_cannot_be_used_is_one_line(write, message, tmp_path, capsys):
    folder = tmp_path / "folder"
    folder.mkdir()
    write(folder)
    with pytest.raises(InputError, match=message):
        read_onnx(folder / "net.onnx")
    before = sorted(folder.iterdir())
    assert export(folder / "net.onnx", "-o", folder / "out.onnx") == 2
    output, error = capsys.readouterr()
    assert output == "" and error.count("\n") == 1 and str(folder / "net.onnx") in error
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("external", [False, True])
def test_a_network_from_elsewhere_is_folded_and_checked(external, tmp_path, capsys):
    model = network()
    options = {"save_as_external_data": True, "location": "data.bin", "size_threshold": 0} if external else {}
    onnx.save(model, tmp_path / "net.onnx", **options)
    assert export(tmp_path / "net.onnx", "-o", tmp_path / "out.onnx") == 0
    output, errors = capsys.readouterr()
    assert output.startswith(f"{tmp_path / 'out.onnx'}: 4 => 2 nodes; passes at tolerance ")
    assert "BatchNormalization      1 => 0" in errors
    x = normal(3, 4, 6, 6)
    outputs = [
        onnxruntime.InferenceSession(tmp_path / name, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        for name in ("net.onnx", "out.onnx")
    ]
    np.testing.assert_allclose(*outputs, rtol=0, atol=1e-5 * np.abs(outputs[0]).max())
    metadata = {entry.key: entry.value for entry in onnx.load(tmp_path / "out.onnx").metadata_props}
    assert metadata == {"layer_folding.precision": "fp32"}


def test_several_inputs_and_outputs_and_open_sizes(tmp_path):
    model = network(input_shape=("n", 4, "h", "w"))
    model.graph.input.append(helper.make_tensor_value_info("x2", TensorProto.FLOAT, ["n", 5, "h", "w"]))
    model.graph.node.append(node("Add", "y", "x2", "z"))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    onnx.save(model, tmp_path / "net.onnx")
    assert export(tmp_path / "net.onnx", "-o", tmp_path / "out.onnx") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "would overwrite itself"),
        (["-o", "out.onnx", "--opset", "17"], "an ONNX file keeps its own"),
        (["-o", "out.onnx", "--precision", "fp8"], "fp8 is not one of fp32, fp16, int8"),
        (["-o", "out.onnx", "--skip", "everything"], "everything is not one of lower-constants"),
        (["-o", "out.onnx", "--precision", "fp16", "--keep", "nobody"], "no node or operator is called nobody"),
        (["-o", "out.onnx", "--precision", "int8"], "calib.npz is not there"),
    ],
)
def test_bad_options(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    onnx.save(network(), "net.onnx")
    assert export("net.onnx", *arguments) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert message in error
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]
