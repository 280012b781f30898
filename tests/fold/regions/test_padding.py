"""Hoisting: padding moves to the front, borders change, nothing else does."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from torch import nn

from layer_folding.fold import fold, hoist_padding
from layer_folding.fold.regions.padding import Hoisted
from tests.fold.networks import (
    EXAMPLE,
    WIDTH,
    Calls,
    Skip,
    conv,
    difference,
    noise,
    random_networks,
    randomised,
    removed_activation,
)  # fmt: skip

DOUBLE = EXAMPLE.double()


def convolutions(model: nn.Module) -> list[nn.Conv2d]:
    return [module for module in model.modules() if isinstance(module, nn.Conv2d)]


def two(stride: int = 1, **first) -> nn.Sequential:
    return (
        nn.Sequential(conv(WIDTH, 6, stride=stride, **first), removed_activation(), conv(6, WIDTH, 5)).double().eval()
    )


def inner(x: torch.Tensor, border: int) -> torch.Tensor:
    return x[:, :, border:-border, border:-border]


def test_padding_moves_to_the_first_layer_times_its_stride():
    network = two(stride=2)
    hoisted, report = hoist_padding(network, DOUBLE)
    assert report == [
        Hoisted(("0", "2"), before=(((1, 1), (1, 1)), ((2, 2), (2, 2))), after=(((5, 5), (5, 5)), ((0, 0), (0, 0))))
    ]
    assert [c.padding for c in convolutions(hoisted)] == [(5, 5), (0, 0)]
    assert hoisted(noise()).shape == network(noise()).shape


def test_only_the_border_changes():
    """The 5x5 kernel reaches two pixels into the padding of what it reads, and no further."""
    network = two()
    hoisted, _ = hoist_padding(network, DOUBLE)
    before, after = network(noise()), hoisted(noise())
    assert difference(inner(after, 2), inner(before, 2)) <= 1e-12
    assert difference(after, before) > 1e-3


def test_fold_is_exact_after_it_and_refuses_before_it():
    network = two()
    (skipped,) = [s for s in fold(network, DOUBLE).skipped if s.layer == "2"]
    assert skipped.reason.endswith("merging is wrong at the borders; hoist_padding first")
    hoisted, _ = hoist_padding(network, DOUBLE)
    result = fold(hoisted, DOUBLE)
    assert len(result.folded) == 1
    assert difference(result.model(noise()), hoisted(noise())) <= 1e-9


def test_the_model_is_not_modified():
    network = two()
    before, structure = copy.deepcopy(network.state_dict()), repr(network)
    hoisted, _ = hoist_padding(network, DOUBLE)
    with torch.no_grad():
        hoisted.get_parameter("0.weight").zero_()
    assert repr(network) == structure
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_weights_and_modes_are_kept():
    network = nn.Sequential(conv(WIDTH, 6), nn.BatchNorm2d(6), removed_activation(), conv(6, WIDTH), nn.Dropout())
    network.train()
    network[1].eval()
    hoisted, report = hoist_padding(network, EXAMPLE)
    assert len(report) == 1
    assert hoisted.state_dict().keys() == network.state_dict().keys()
    modes = {name: module.training for name, module in network.named_modules()}
    assert {name: module.training for name, module in hoisted.named_modules()} == modes


def test_an_identity_branch_is_cropped():
    """The inner skip joins a value that has grown by the padding of the layer after it: it reads less of its input."""
    body = Skip(nn.Sequential(conv(WIDTH, 6), removed_activation(), conv(6, WIDTH)))
    network = nn.Sequential(conv(WIDTH, WIDTH), removed_activation(), body).double().eval()
    hoisted, report = hoist_padding(network, DOUBLE)
    assert [h.layers for h in report] == [("0", "2.body.0", "2.body.2")]
    crops = [m.padding for m in hoisted.modules() if isinstance(m, nn.ZeroPad2d)]
    assert crops == [(-2, -2, -2, -2)]
    x = noise()
    assert difference(inner(hoisted(x), 3), inner(network(x), 3)) <= 1e-12
    result = fold(hoisted, DOUBLE)
    assert len(result.folded) == 1
    assert difference(result.model(x), hoisted(x)) <= 1e-9


def test_the_anchor_that_joins_a_larger_value_is_padded():
    block = nn.Sequential(Skip(nn.Sequential(conv(WIDTH, WIDTH))), removed_activation(), conv(WIDTH, WIDTH, 5))
    network = block.double().eval()
    hoisted, report = hoist_padding(network, DOUBLE)
    assert len(report) == 1
    assert [m.padding for m in hoisted.modules() if isinstance(m, nn.ZeroPad2d)] == [(2, 2, 2, 2)]
    result = fold(hoisted, DOUBLE)
    assert difference(result.model(noise()), hoisted(noise())) <= 1e-9


def test_uneven_padding():
    network = nn.Sequential(conv(WIDTH, 6), removed_activation(), nn.ZeroPad2d((0, 1, 2, 0)), conv(6, 5, 2, padding=0))
    network = network.double().eval()
    hoisted, report = hoist_padding(network, DOUBLE)
    assert report[0].after == (((3, 1), (1, 2)), ((0, 0), (0, 0)))
    assert hoisted(noise()).shape == network(noise()).shape
    result = fold(hoisted, DOUBLE)
    assert len(result.folded) == 1
    assert difference(result.model(noise()), hoisted(noise())) <= 1e-9


def test_padding_by_a_function_moves_too():
    network = Calls(lambda m, x: m.b(F.pad(m.a(x), (1, 1, 1, 1))), a=conv(WIDTH, 6), b=conv(6, 5, padding=0))
    network = network.double().eval()
    hoisted, report = hoist_padding(network, DOUBLE)
    assert len(report) == 1
    result = fold(hoisted, DOUBLE)
    assert len(result.folded) == 1
    assert difference(result.model(noise()), hoisted(noise())) <= 1e-9


def test_same_padding_by_name():
    network = two(padding="same")
    hoisted, report = hoist_padding(network, DOUBLE)
    assert report[0].after == (((3, 3), (3, 3)), ((0, 0), (0, 0)))
    assert difference(fold(hoisted, DOUBLE).model(noise()), hoisted(noise())) <= 1e-9


def test_a_pad_module_that_is_called_twice_moves_at_one_place_only():
    def forward(m: Calls, x):
        y = m.b(m.pad(m.a(x)))
        return m.c(m.pad(y.relu()))

    network = Calls(forward, pad=nn.ZeroPad2d(1), a=conv(WIDTH, 6), b=conv(6, 5, padding=0), c=conv(5, 5, padding=0))
    network = network.double().eval()
    hoisted, _ = hoist_padding(network, DOUBLE)
    assert hoisted(noise()).shape == network(noise()).shape
    assert sorted(m.padding for m in hoisted.modules() if isinstance(m, nn.ZeroPad2d)) == [(0,) * 4, (1,) * 4]
    assert difference(fold(hoisted, DOUBLE).model(noise()), hoisted(noise())) <= 1e-9


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(conv(WIDTH, 6), nn.ReLU(), conv(6, WIDTH)),
        nn.Sequential(conv(WIDTH, 6), removed_activation(), conv(6, WIDTH, 1)),
        nn.Sequential(conv(WIDTH, 2), conv(2, WIDTH)),
    ],
    ids=["activation between", "padding in front already", "bottleneck"],
)
def test_nothing_to_hoist(network):
    network = network.double().eval()
    hoisted, report = hoist_padding(network, DOUBLE)
    assert report == []
    assert torch.equal(hoisted(noise()), network(noise()))


@settings(max_examples=40, deadline=None)
@given(random_networks())
def test_twice_is_once(network):
    once, _ = hoist_padding(network.double(), DOUBLE)
    twice, report = hoist_padding(once, DOUBLE)
    assert report == []
    assert twice.code == once.code
    assert difference(twice(noise()), once(noise())) == 0


def test_batch_norm_between():
    network = nn.Sequential(
        conv(WIDTH, 6, bias=False), nn.BatchNorm2d(6), removed_activation(), conv(6, 5), nn.BatchNorm2d(5)
    )
    network = randomised(network).double()
    hoisted, _ = hoist_padding(network, DOUBLE)
    assert difference(inner(hoisted(noise()), 1), inner(network(noise()), 1)) <= 1e-12
    result = fold(hoisted, DOUBLE)
    assert [m.layers for m in result.folded] == [("0", "3")]
    assert difference(result.model(noise()), hoisted(noise())) <= 1e-9


def test_hoisting_a_network_in_training_mode_does_not_move_its_statistics():
    """Measuring right after hoisting, as one should, would else measure another network."""
    network = randomised(nn.Sequential(conv(WIDTH, 6), removed_activation(), conv(6, 5), nn.BatchNorm2d(5))).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    hoisted, moved = hoist_padding(network, EXAMPLE)
    assert moved
    assert all(torch.equal(value, before[name]) for name, value in hoisted.state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
