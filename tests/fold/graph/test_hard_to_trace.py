"""Networks in which code asks for sizes, layers have their own way to compute, and outputs are no tensors."""

from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.ao.nn import qat
from torch.ao.quantization import get_default_qat_qconfig

from layer_folding.errors import InputError
from layer_folding.fold import depth, fold, gates, hoist_padding, linearize, scan
from layer_folding.fold.graph.nodes import is_activation, module_of
from layer_folding.fold.graph.tracing import trace
from tests.fold.networks import EXAMPLE, WIDTH, Calls, conv, difference, noise, randomised, removed_activation

DOUBLE = EXAMPLE.double()


def pair(second: nn.Module) -> dict[str, nn.Module]:
    return {
        "a": conv(WIDTH, 6),
        "act": removed_activation(),
        "b": second,
        "c": nn.Sequential(nn.ReLU(), conv(5, WIDTH)),
    }


@pytest.mark.parametrize(
    ("between", "reason"),
    [
        (lambda x: F.avg_pool2d(x, x.size()[3]), "avg_pool2d is not linear"),
        (lambda x: F.pad(x, [x.size(3) // 2, 1, 0, x.shape[2] // 3]), "pad pads by amounts that the code computes"),
        (lambda x: x[:, :, : x.size(2) - 1], "getitem takes a part of the tensor"),
        (lambda x: x / x.size(2), "truediv is not linear"),
        (lambda x: F.interpolate(x, x.shape[2:]), "interpolate is not linear"),
        (lambda x: torch.cat([x, x], dim=x.dim() - 1), "cat is not an operation on one tensor"),
    ],
)
def test_sizes_that_the_code_computes_end_a_region(between, reason):
    model = Calls(lambda m, x: m.c(m.b(between(m.act(m.a(x))))), **pair(conv(6, 5))).double().eval()
    result = fold(hoist_padding(model, DOUBLE)[0], DOUBLE)
    assert result.folded == []
    assert {entry.layer: entry.reason for entry in result.skipped}["b"] == reason
    assert torch.equal(result.model(noise()), model(noise()))


def test_a_transposed_convolution_with_an_output_size():
    up = nn.ConvTranspose2d(6, 5, 2, stride=2)
    model = Calls(lambda m, x: m.c(m.b(m.act(m.a(x)), output_size=[31, 27])), **pair(up)).double().eval()
    assert scan(model, DOUBLE).candidates == []
    result = fold(model, DOUBLE)
    expected = "b (ConvTranspose2d) is called with more than its input, such as an output size"
    assert {entry.layer: entry.reason for entry in result.skipped}["b"] == expected
    assert difference(result.model(noise()), model(noise())) == 0


class OwnConvolution(nn.Conv2d):
    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x, weight.abs(), bias)


def test_a_layer_with_its_own_way_to_compute_stays():
    model = Calls(lambda m, x: m.c(m.b(m.act(m.a(x)))), **pair(OwnConvolution(6, 5, 3))).double().eval()
    result = fold(model, DOUBLE)
    assert result.folded == []
    expected = "b (OwnConvolution) computes something else than the Conv2d that it inherits from"
    assert {entry.layer: entry.reason for entry in result.skipped}["b"] == expected
    assert torch.equal(result.model(noise()), model(noise())) and depth(model, DOUBLE) == 3


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_layers_for_quantisation_aware_training_are_refused():
    """Folding is checked in float64, in which they do not run."""
    layer = qat.Conv2d(6, 5, 3, qconfig=get_default_qat_qconfig("fbgemm"))
    model = Calls(lambda m, x: m.c(m.b(m.act(m.a(x)))), **pair(layer)).eval()
    model(EXAMPLE)  # observers see values
    assert scan(model, EXAMPLE).candidates == []
    with pytest.raises(InputError, match=r"^b \(Conv2d\) does not run in float64, .* before it gets such layers$"):
        fold(model, EXAMPLE)


class OwnBatchNorm(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.num_batches_tracked.add_(1)
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.1, self.eps
        )


class AnyBatchNorm(nn.modules.batchnorm._BatchNorm):
    def _check_input_dim(self, x: Tensor) -> None:
        pass


@pytest.mark.parametrize("kind", [nn.SyncBatchNorm, OwnBatchNorm, AnyBatchNorm])
def test_batch_norms_that_are_the_same_in_eval_mode_merge(kind):
    model = nn.Sequential(conv(WIDTH, 6), kind(6), removed_activation(), conv(6, 5, padding=0))
    for name in ("running_mean", "running_var", "weight", "bias"):
        nn.init.uniform_(getattr(model[1], name), 0.5, 1.5)
    model = model.double().eval()
    result = fold(model, DOUBLE)
    assert [merge.layers for merge in result.folded] == [("0", "3")]
    assert difference(result.model(noise()), model(noise())) <= 1e-12
    model[1].train()
    with pytest.raises(InputError, match="layer 1 is in training mode"):
        fold(model, DOUBLE)


@dataclass
class Detections:
    scores: Tensor
    boxes: dict[str, Tensor]


class Pair(NamedTuple):
    first: Tensor
    second: Tensor


@pytest.mark.parametrize(
    ("pack", "unpack"),
    [
        (lambda x, y: Detections(x, {"near": y}), lambda out: (out.scores, out.boxes["near"])),
        (lambda x, y: {"x": x, "y": [y]}, lambda out: (out["x"], out["y"][0])),
        (Pair, lambda out: (out.first, out.second)),
    ],
    ids=["dataclass", "dict", "named tuple"],
)
def test_outputs_that_are_no_tensors(pack, unpack):
    model = Calls(lambda m, x: pack(y := m.b(m.act(m.a(x))), m.c(y)), **pair(conv(6, 5, padding=0))).double().eval()
    result = fold(model, DOUBLE)
    assert ("a", "b") in [merge.layers for merge in result.folded]
    for actual, expected in zip(unpack(result.model(noise())), unpack(model(noise())), strict=True):
        assert difference(actual, expected) <= 1e-12


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (F.selu, "SELU()"),
        (F.celu, "CELU(alpha=1.0)"),
        (F.softplus, "Softplus(beta=1.0, threshold=20.0)"),
        (lambda x: F.softplus(x, 2, 30), "Softplus(beta=2, threshold=30)"),
        (F.softsign, "Softsign()"),
        (F.hardsigmoid, "Hardsigmoid()"),
        (F.logsigmoid, "LogSigmoid()"),
        (lambda x: F.softshrink(x, 0.2), "Softshrink(0.2)"),
        (lambda x: x.clamp(min=0), "ReLU()"),
        (lambda x: torch.clamp_min(x, 0.0), "ReLU()"),
        (lambda x: x.clamp_(0, 6), "Hardtanh(min_val=0, max_val=6)"),
        (lambda x: torch.clip(x, min=-1, max=2), "Hardtanh(min_val=-1, max_val=2)"),
        (lambda x: F.celu(x, 0.5), "CELU(alpha=0.5)"),
    ],
)
def test_activations_get_a_gate_by_default(function, kind):
    model = Calls(lambda m, x: m.b(function(m.a(x))), a=conv(WIDTH, 6), b=conv(6, 5))
    model = randomised(model).double()
    traced = trace(model, DOUBLE)
    assert [repr(module_of(node)) for node in traced.graph.nodes if is_activation(node)] == [kind]
    assert torch.equal(traced(noise()), model(noise()))
    assert len(gates(linearize(model, DOUBLE))) == 1


@pytest.mark.parametrize("function", [lambda x: x.clamp(max=1), lambda x: x.clamp(min=x.mean()), lambda x: x.abs()])
def test_other_functions_get_none(function):
    model = Calls(lambda m, x: m.b(function(m.a(x))), a=conv(WIDTH, 6), b=conv(6, 5)).double().eval()
    assert not [node for node in trace(model, DOUBLE).graph.nodes if is_activation(node)]
