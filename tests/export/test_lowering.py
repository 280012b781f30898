import logging
import warnings

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from layer_folding.errors import CheckError, InputError
from layer_folding.export import check, lower


def test_interface(exported):
    graph = exported.lowered.graph
    shapes = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*graph.input, *graph.output)]
    assert [value.name for value in (*graph.input, *graph.output)] == ["input", "logits"]
    assert shapes == [["batch", 3, 12, 12], ["batch", 10]]
    assert [(entry.domain, entry.version) for entry in exported.lowered.opset_import] == [("", 20)]
    assert exported.lowered.ir_version == 9  # ONNX Runtime 1.17 and onnx 1.15, which brought opset 20, stop there
    onnx.checker.check_model(exported.lowered, full_check=True)


def test_nodes_are_named_after_modules(exported):
    names = [node.name for node in exported.lowered.graph.node]
    assert len(set(names)) == len(names)
    assert {"stem.0/Conv", "stem.2/Clip", "blocks.2.body.3/Conv", "head/Gemm"} <= set(names)


def test_nothing_tells_about_the_exporting_machine(exported):
    content = exported.lowered.SerializeToString()
    assert b".py" not in content and b"stack_trace" not in content


def test_model_and_process_are_left_as_they_were(capfd):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    lower(model, torch.randn(1, 3, 8, 8))
    assert all(module.training for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert logging.root.manager.disable == logging.NOTSET
    assert capfd.readouterr() == ("", "")


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_weights_that_are_computed_and_a_tensor_with_a_gradient_are_exported():
    """`copy.deepcopy` takes neither."""
    model = nn.Sequential(nn.utils.weight_norm(nn.Conv2d(3, 4, 3)), nn.utils.spectral_norm(nn.Conv2d(4, 4, 3))).eval()
    model.kept = model(torch.randn(1, 3, 8, 8))
    assert check(model, lower(model, torch.randn(1, 3, 8, 8))) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("what", ["model", "example", "both"])
def test_the_layout_in_memory_does_not_matter(what):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(4, 5))
    example = torch.randn(1, 3, 8, 8)
    plain = lower(model, example)
    if what != "example":
        model = model.to(memory_format=torch.channels_last)
    if what != "model":
        example = torch.randn(1, 8, 8, 3).permute(0, 3, 1, 2)
    kinds = [[node.op_type for node in proto.graph.node] for proto in (plain, lower(model, example))]
    assert kinds[0] == kinds[1]
    assert not {"Range", "Gather"} & {*kinds[0]}


def test_opset_is_asserted():
    # The exporter keeps opset 18, and only logs that.
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    assert lower(model, torch.randn(1, 3, 8, 8), opset=18).opset_import[0].version == 18
    with pytest.raises(CheckError, match=r"opset 40 .* produced opset (\d\d); use --opset \1"):
        lower(model, torch.randn(1, 3, 8, 8), opset=40)


class Branching(nn.Module):
    def forward(self, x):
        return x + 1 if x.sum() > 0 else x


class FixedBatch(nn.Module):
    def forward(self, x):
        return x.view(2, -1)


class Count(nn.Module):
    def forward(self, x):
        return x + 1, len(x)


class NotInOnnx(nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(x)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Branching(), "cannot trace .* values of tensors"),
        (FixedBatch(), r"only for some batch sizes.*flatten\(1\)"),
        (Count(), "returns a int; give one that returns tensors"),
        (NotInOnnx(), "ONNX cannot express the model .*bessel_j0.*replace"),
        (nn.Conv2d(5, 4, 3), "to have 5 channels"),
    ],
)
def test_what_cannot_be_exported_is_one_line(model, message, capfd):
    with pytest.raises(InputError, match=message) as caught:
        lower(model, torch.randn(2, 3, 8, 8))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
class Remembering(nn.Module):
    """Asks whether the shape is that of the last call, as the heads of ultralytics do."""

    shape: torch.Size | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.shape != x.shape:
            self.shape = x.shape
        return 2 * x


@pytest.mark.parametrize("images", [0, 1, 2])
def test_a_network_that_remembers_the_last_shape_takes_any_batch(images):
    model = Remembering()
    if images:
        model(torch.randn(images, 3, 4, 4))
    assert check(model, lower(model, torch.randn(2, 3, 4, 4)), np.random.rand(3, 3, 4, 4).astype(np.float32)) < 1e-5


def test_warnings_of_the_model_pass():
    class Warns(nn.Module):
        def forward(self, x):
            warnings.warn("mine", UserWarning, stacklevel=1)
            return x + 1

    with pytest.warns(UserWarning, match="mine"):
        lower(Warns(), torch.randn(1, 3, 8, 8))
