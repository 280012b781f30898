"""Files from anywhere: a whole network is read, anything else is one line and exit code 2."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from layer_folding.command_line import run
from layer_folding.errors import InputError
from layer_folding.export import commands as command
from layer_folding.export import max_error, quantise, to_fp16
from layer_folding.export.onnx_reading import read_onnx
from tests.export.passes.test_merging import conv, node
from tests.export.test_simplifying import make, norm, norm_node, normal


def export(*arguments):
    return run(lambda: command.main(["export", *map(str, arguments)]))


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
        ([], "-o net.onnx: is what the command reads; give another name"),
        (["-o", "other.onnx", "--precision", "fp32,fp16"], "other.fp16.onnx: is what the command reads"),
        (["-o", "out.onnx", "--dynamic-size"], "--dynamic-size is for checkpoints"),
        (["-o", "out.onnx", "--opset", "3"], "--opset 3: export takes opsets 13 to "),
        (["-o", "out.onnx", "--precision", "fp8"], "fp8 is not one of fp32, fp16, int8"),
        (["-o", "out.onnx", "--skip", "everything"], "everything is not one of lower-constants"),
        (["-o", "out.onnx", "--precision", "fp16", "--keep", "nobody"], "no node or operator is called nobody"),
        (["-o", "out.onnx", "--precision", "int8"], "calib.npz is not there"),
    ],
)
def test_bad_options(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("net.onnx", "other.fp16.onnx"):
        onnx.save(network(), name)
    assert export("other.fp16.onnx" if "other.onnx" in arguments else "net.onnx", *arguments) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert message in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.onnx", "other.fp16.onnx"]


def test_one_precision_gets_the_name_that_was_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    onnx.save(network(), "net.onnx")
    assert export("net.onnx", "--precision", "fp16", "-o", "half.onnx") == 0
    assert export("net.onnx", "--precision", "fp16") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["half.onnx", "net.fp16.onnx", "net.onnx"]


def named(model: onnx.ModelProto) -> list[str]:
    return [each.name for each in model.graph.node]


def test_nodes_get_names_of_their_own_and_weights_are_no_inputs(tmp_path):
    model = network()
    for each in model.graph.node:
        each.name = ""
    model.graph.node[2].name = "Conv"
    model.graph.input.append(helper.make_tensor_value_info("v", TensorProto.FLOAT, [6, 4, 3, 3]))
    onnx.save(model, tmp_path / "net.onnx")
    read = read_onnx(tmp_path / "net.onnx")
    assert named(read) == ["Conv", "BatchNormalization", "Conv_1", "Relu"]
    assert [entry.name for entry in read.graph.input] == ["x"]


def test_a_name_that_is_not_utf_8_is_one_line(tmp_path):
    model = network()
    model.graph.node[0].output[0] = model.graph.node[1].input[0] = "hidden"
    content = model.SerializeToString()
    assert content.count(b"hidden") >= 2
    (tmp_path / "net.onnx").write_bytes(content.replace(b"hidden", b"hidd\xffn"))
    with pytest.raises(InputError, match=r"net.onnx: the text of a field (input|output) is not UTF-8"):
        read_onnx(tmp_path / "net.onnx")


def test_images_as_bytes_are_refused_by_name(tmp_path):
    cast = helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT)
    model = make([cast, node("Relu", "f", "y")], ["y"])
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(InputError, match=r"net.onnx: input x is UINT8; export takes networks of float32 inputs"):
        read_onnx(tmp_path / "net.onnx")


def exports(tmp_path, model: onnx.ModelProto, *options: str) -> int:
    onnx.save(model, tmp_path / "net.onnx")
    return export(tmp_path / "net.onnx", "-o", tmp_path / "out.onnx", *options)


def test_a_constant_output_in_fp16_keeps_its_type(tmp_path):
    model = network()
    model.graph.initializer.append(numpy_helper.from_array(np.arange(3, dtype=np.float32), "anchors"))
    model.graph.output.append(helper.make_tensor_value_info("anchors", TensorProto.FLOAT, [3]))
    assert exports(tmp_path, model, "--precision", "fp16") == 0
    session = onnxruntime.InferenceSession(tmp_path / "out.onnx")
    outputs = session.run(None, {"x": np.zeros((1, 4, 6, 6), np.float32)})
    assert outputs[1].dtype == np.float32 and outputs[1].tolist() == [0, 1, 2]


def test_an_input_that_is_an_output_in_fp16_is_handed_through(tmp_path):
    model = network()
    first = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4, 6, 6])
    outputs = [first, *model.graph.output]
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    assert exports(tmp_path, model, "--precision", "fp16") == 0
    session, x = onnxruntime.InferenceSession(tmp_path / "out.onnx"), normal(2, 4, 6, 6)
    assert [output.name for output in session.get_outputs()] == [output.name for output in outputs]
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], x)


def test_what_fp16_cannot_hold_is_refused_by_node(tmp_path, capsys):
    result = helper.make_tensor_value_info("b", TensorProto.FLOAT, None)
    body = helper.make_graph([helper.make_node("Relu", ["h"], ["b"])], "body", [], [result])
    choice = helper.make_node("If", ["c"], ["y"], name="choice", then_branch=body, else_branch=body)
    nodes = [conv("x", "h", "v", pads=[1] * 4), helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0)]
    nodes += [helper.make_node("Cast", ["m"], ["c"], to=TensorProto.BOOL), choice]
    model = make(nodes, ["y"], {"v": normal(6, 4, 3, 3)})
    assert exports(tmp_path, model, "--precision", "fp16") == 2
    assert "fp16: choice (If) has graphs inside, which stay in fp32" in capsys.readouterr().err
    quantised = quantise(network(), normal(4, 4, 6, 6))
    for precision in ("fp16", "int8"):
        with pytest.raises(InputError, match=rf"{precision}: .* \(QuantizeLinear\) is quantised already"):
            to_fp16(quantised) if precision == "fp16" else quantise(quantised, normal(4, 4, 6, 6))


def test_a_network_that_reads_its_input_in_int8_only(tmp_path):
    model = make([conv("x", "y", "v", pads=[1] * 4)], ["y"], {"v": normal(6, 4, 3, 3)})
    images = normal(4, 4, 6, 6)
    assert max_error(model, quantise(model, images), images, noise=False) < 0.5
