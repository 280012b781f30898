"""Networks from ONNX files: the function of the file, rebuilt without it, and what is refused."""

import base64
import zlib

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

import layer_folding as lf
from layer_folding.errors import InputError
from layer_folding.fold import model_names
from layer_folding.fold.onnx_in import load, read_network, rebuild
from layer_folding.fold.onnx_in.skeletons import unpack
from tests.fold.networks import randomised

pytest.importorskip("onnx2torch", reason="needs onnx2torch")


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.a, self.b = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        x = torch.relu(x + self.b(torch.relu(self.a(x))))
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module", params=[17, 20])
def file(request, tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    lf.export(randomised(Residual()).eval(), torch.rand(1, 3, 16, 16), path, opset=request.param)
    return path


def run(path, x):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


def test_it_computes_what_the_file_computes(file):
    x = torch.rand(4, 3, 16, 16)
    network = read_network(file)
    torch.testing.assert_close(network.model.eval()(x), run(file, x), rtol=1e-5, atol=1e-5)
    assert (network.shape, network.batch, network.input, network.outputs) == ((3, 16, 16), None, "input", ("logits",))
    torch.testing.assert_close(lf.load(file)(x), load(file)(x))


def test_it_is_rebuilt_from_a_text_without_its_weights(file):
    network, x = read_network(file), torch.rand(2, 3, 16, 16)
    again = model_names.build("onnx:gone.onnx", {"graph": network.graph}).eval()
    assert not again.state_dict()["a_Conv.weight"].any() and len(network.graph) < 20000
    again.load_state_dict(network.model.state_dict())
    assert torch.equal(again(x), network.model.eval()(x))


def test_it_is_gated_fitted_and_folded(file):
    model, example = load(file), torch.rand(1, 3, 16, 16)
    (candidate,) = lf.scan(model, example).candidates
    fitted = lf.fit(model, torch.rand(64, 3, 16, 16), {candidate.activations: 3})
    result = lf.fold(fitted.model.eval(), example)
    assert lf.depth(result.model, example) == lf.depth(model, example) - 1 and result.max_error <= 1e-9


def one_node(kind: str, inputs: list[str], opset: int = 17, **attributes: object) -> onnx.ModelProto:
    node = helper.make_node(kind, inputs, ["y"], name="my/node", **attributes)
    shape = ["N", 3, 8, 8]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph([node], "g", values[:1], values[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (one_node("Gelu", ["x"], 20), "node my/node: Gelu has another meaning after opset 17"),
        (one_node("Hardmax", ["x"], 17), "node my/node: onnx2torch does not know Hardmax of opset 17"),
    ],
)
def test_an_operator_that_is_not_known_is_named(model, message, tmp_path):
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(InputError, match=message) as caught:
        read_network(tmp_path / "net.onnx")
    assert "\n" not in str(caught.value)


def test_files_that_are_none_are_one_line(tmp_path):
    with pytest.raises(InputError, match="no such file; give an ONNX file"):
        read_network(tmp_path / "none.onnx")
    for content in (b"", b"no protobuf", bytes(range(256))):
        (tmp_path / "bad.onnx").write_bytes(content)
        with pytest.raises(InputError, match="not an ONNX file, or damaged"):
            read_network(tmp_path / "bad.onnx")


def test_several_inputs_are_refused(tmp_path):
    model = one_node("Relu", ["x"])
    model.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1]))
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(InputError, match="takes 2 inputs"):
        read_network(tmp_path / "net.onnx")


def packed(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content)).decode()


@pytest.mark.parametrize("text", ["", "?", "AAAA", packed(b"no protobuf \xff"), packed(bytes(2**26 + 1))])
def test_a_damaged_graph_is_refused(text):
    with pytest.raises(ValueError, match=r"graph|convert"):
        rebuild(text)


def test_a_graph_that_asks_for_too_much_memory_is_refused():
    model = one_node("Relu", ["x"])
    model.graph.initializer.append(TensorProto(name="w", dims=[2**20, 2**20], data_type=TensorProto.FLOAT))
    with pytest.raises(ValueError, match="more weights than one ONNX file"):
        unpack(packed(model.SerializeToString()))


def test_a_graph_that_asks_for_a_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.txt").write_text("123456789012")
    model = one_node("Relu", ["x"])
    tensor = TensorProto(name="w", dims=[3], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="secret.txt")
    model.graph.initializer.append(tensor)
    with pytest.raises(ValueError, match="asks for a file of this machine"):
        rebuild(packed(model.SerializeToString()))


def test_a_large_constant_is_a_weight(tmp_path):
    """Other exporters write weights as Constant nodes."""
    model = one_node("Add", ["x", "c"])
    values = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    model.graph.node.insert(0, helper.make_node("Constant", [], ["c"], value=onnx.numpy_helper.from_array(values)))
    onnx.save(model, tmp_path / "net.onnx")
    network, x = read_network(tmp_path / "net.onnx"), torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(network.model(x), run(tmp_path / "net.onnx", x))
    again = rebuild(network.graph)
    assert len(network.graph) < 1000 and torch.equal(again(x), x)
    again.load_state_dict(network.model.state_dict())
    assert torch.equal(again(x), network.model(x))


def test_weights_come_back_as_zeros_of_their_type():
    model = one_node("Relu", ["x"])
    model.graph.initializer.append(TensorProto(name="w", dims=[8, 8], data_type=TensorProto.FLOAT16))
    (tensor,) = unpack(packed(model.SerializeToString())).graph.initializer
    assert np.array_equal(onnx.numpy_helper.to_array(tensor), np.zeros((8, 8), np.float16))
