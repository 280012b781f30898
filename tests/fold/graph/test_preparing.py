"""Weights that are computed, hooks and patched methods: made plain, kept or refused."""

import copy
import types

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from layer_folding.errors import InputError
from layer_folding.fold import fold, hoist_padding, linearize
from layer_folding.fold.graph.tracing import trace
from tests.fold.networks import EXAMPLE, WIDTH, Calls, conv, difference, noise, removed_activation

FLOAT = noise(dtype=torch.float32)


def network() -> nn.Sequential:
    return nn.Sequential(conv(WIDTH, 6), removed_activation(), conv(6, 5, padding=0), nn.ReLU(), conv(5, WIDTH))


def pruned(layer: nn.Conv2d) -> nn.Conv2d:
    prune.random_unstructured(layer, "bias", amount=0.5)
    return prune.l1_unstructured(prune.random_unstructured(layer, "weight", amount=0.3), "weight", amount=0.3)


@pytest.mark.parametrize("share_weights", [False, True])
@pytest.mark.parametrize(
    "computed",
    [
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        lambda layer: parametrizations.weight_norm(parametrizations.weight_norm(layer), "bias", dim=None),
        pytest.param(weight_norm, marks=pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")),
        spectral_norm,
        pruned,
    ],
    ids=["weight_norm", "spectral_norm", "two weights", "old weight_norm", "old spectral_norm", "prune"],
)
def test_computed_weights_become_plain_ones(computed, share_weights):
    model = network()
    computed(model[0])
    computed(model[2])
    model(FLOAT)  # hooks leave tensors behind that a backward pass could go through
    model.eval()
    expected, before = model(FLOAT), copy.deepcopy({k: v.detach() for k, v in model.state_dict().items()})
    traced = trace(model, EXAMPLE, share_weights=share_weights)
    assert torch.equal(traced(FLOAT), expected)
    assert type(traced.get_submodule("0")) is nn.Conv2d
    assert {"0.weight", "0.bias"} <= {name for name, p in traced.named_parameters() if p.requires_grad}
    assert not traced.get_submodule("0")._forward_pre_hooks
    result = fold(model, EXAMPLE)
    assert [merge.layers for merge in result.folded] == [("0", "2")]
    assert difference(result.model(FLOAT), expected) <= 1e-5
    model(FLOAT).sum().backward()  # the network given still computes them
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_tensor_with_a_gradient_that_a_module_keeps_can_be_copied():
    def forward(m: Calls, x: Tensor) -> Tensor:
        m.last = m.a(x)
        m.history = {"features": [m.last]}
        return F.relu(m.last)

    model = Calls(forward, a=conv(WIDTH, 6)).eval()
    expected = model(FLOAT)
    assert not model.last.is_leaf
    assert torch.equal(trace(model, EXAMPLE)(FLOAT), expected)


def test_what_cannot_be_copied_is_refused():
    model = network()
    model.stream = (i for i in range(3))
    with pytest.raises(InputError, match=r"^Sequential cannot be copied \(.*generator.*\); keep"):
        trace(model, EXAMPLE)


def double(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
    return output * 2


def set_forward(module: nn.Module) -> None:
    module.forward = types.MethodType(lambda self, x: type(self).forward(self, x) * 2, module)


@pytest.mark.parametrize("which", ["", "0", "3", "4"])
@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda module: module.register_forward_hook(double), "a forward hook of"),
        (lambda module: module.register_forward_pre_hook(lambda module, args: args[0] * 2 + 1), "a forward hook of"),
        (set_forward, "a forward set on"),
    ],
    ids=["hook", "pre-hook", "forward"],
)
def test_what_changes_values_from_outside_is_refused_by_name(which, change, what):
    model = network()
    change(model.get_submodule(which))
    for function in (linearize, hoist_padding, fold):
        with pytest.raises(InputError, match=f"tracing leaves out {what} {which or 'Sequential'}: "):
            function(model.eval(), EXAMPLE)


def test_hooks_inside_the_network_that_are_traced_through_are_kept():
    model = nn.Sequential(nn.Sequential(conv(WIDTH, 6), nn.ReLU()), conv(6, 5)).eval()
    model[0].register_forward_hook(double)
    assert torch.equal(trace(model, EXAMPLE)(FLOAT), model(FLOAT))


def test_hooks_that_only_look_are_left_out():
    seen = []
    model = network().eval()
    model[0].register_forward_hook(lambda module, args, output: seen.append(output.shape))
    expected = model(FLOAT)
    result = fold(model, EXAMPLE)
    seen.clear()
    assert difference(result.model(FLOAT), expected) <= 1e-5 and not seen
    assert len(model[0]._forward_hooks) == 1
