"""Files in which the exporter wrote down how a shape is computed."""

import onnx
import pytest
import torch
from torch import nn

from layer_folding.export import write_segments
from layer_folding.fold.onnx_in import read_network
from layer_folding.fold.plan.candidates import segments
from tests.fold.onnx_in.test_onnx_networks import run

pytest.importorskip("onnx2torch", reason="needs onnx2torch")


class Asking(nn.Module):
    """Layers that could be fitted, and a head that asks for sizes in one of several ways."""

    def __init__(self, head: str) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.head = head
        self.last = nn.Linear(8 * 6 * 6 if head == "all" else 8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x)
        if self.head == "all":
            return self.last(x.reshape(x.shape[0], 8 * 6 * 6))
        if self.head == "shuffled":
            n, c, h, w = x.shape
            x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)
        return self.last(x.mean((2, 3), keepdim=True).view(x.size(0), -1))


def written(model: nn.Module, path, open_axes):
    with pytest.warns(DeprecationWarning):
        torch.onnx.export(
            model.eval(), torch.rand(2, 3, 6, 6), path, dynamo=False, opset_version=17, input_names=["input"],
            dynamic_axes={"input": open_axes},
        )  # fmt: skip
    return path


@pytest.mark.parametrize("head", ["rest", "all", "shuffled"])
def test_a_network_that_asks_for_its_batch_is_measured_like_others(head, tmp_path):
    torch.manual_seed(0)
    path = written(Asking(head), tmp_path / "net.onnx", {0: "n"})
    assert "Shape" in {node.op_type for node in onnx.load(path).graph.node}
    network = read_network(path)
    model = network.model.eval()
    assert not [name for name, module in model.named_modules() if "Shape" in type(module).__name__]
    for batch in (1, 3):
        x = torch.rand(batch, 3, 6, 6)
        torch.testing.assert_close(model(x), run(path, x), rtol=1e-5, atol=1e-5)
    write_segments(segments(model, torch.rand(1, 3, 6, 6)), tmp_path / "segments", opset=17)
    assert len([*(tmp_path / "segments").glob("*.onnx")]) > 3


def test_a_size_without_a_name_is_open_too(tmp_path):
    path = written(Asking("shuffled"), tmp_path / "net.onnx", {0: "n"})
    file = onnx.load(path)
    file.graph.input[0].type.tensor_type.shape.dim[0].Clear()
    onnx.save(file, path)
    x = torch.rand(3, 3, 6, 6)
    torch.testing.assert_close(read_network(path).model.eval()(x), run(path, x), rtol=1e-5, atol=1e-5)


def test_an_open_size_of_the_image_stays_open(tmp_path):
    path = written(Asking("shuffled"), tmp_path / "net.onnx", {0: "n", 2: "h", 3: "w"})
    model = read_network(path).model.eval()
    for size in (6, 9):
        x = torch.rand(2, 3, size, size)
        torch.testing.assert_close(model(x), run(path, x), rtol=1e-5, atol=1e-5)
