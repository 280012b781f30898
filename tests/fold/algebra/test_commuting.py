"""Pooling, flattening and permuting change places with pointwise layers, so that those can merge behind them."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from layer_folding.fold import fold, hoist_padding, scan
from tests.fold.networks import EXAMPLE, WIDTH, Calls, conv, difference, noise, randomised, removed_activation

DOUBLE = EXAMPLE.double()


def between(pool, first: nn.Module, last: nn.Module) -> nn.Module:
    """``pool``, a module or a function, between two layers, with a removed activation before it."""
    parts = {"a": first, "act": removed_activation(), "b": last}
    if isinstance(pool, nn.Module):
        parts["pool"] = pool
    return Calls(lambda m, x: m.b((getattr(m, "pool", None) or pool)(m.act(m.a(x)))), **parts).double().eval()


POOLS = [
    nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1),
    lambda x: torch.flatten(F.adaptive_avg_pool2d(x, (1, 1)), 1),
    lambda x: F.adaptive_avg_pool2d(x, 1).view(x.size(0), -1),
    lambda x: F.adaptive_avg_pool2d(x, 1).reshape(x.shape[0], 6),
    lambda x: x.mean((2, 3)),
    lambda x: x.mean(dim=[-1, -2]),
    lambda x: x.mean(3).mean(2),
    lambda x: torch.mean(x, (2, 3), keepdim=True).flatten(1),
    lambda x: x.permute(0, 2, 3, 1),
    lambda x: x.flatten(2).transpose(1, 2),
    lambda x: x.flatten(2).transpose(1, 2).mean(1),
]


@pytest.mark.parametrize("pool", POOLS)
def test_a_pointwise_layer_merges_with_the_linear_one_behind(pool):
    first = nn.Sequential(conv(WIDTH, 6, 1), nn.BatchNorm2d(6), nn.Dropout())
    network = randomised(between(pool, first, nn.Linear(6, 3)))
    result = fold(network, DOUBLE)
    assert [merge.layers for merge in result.folded] == [("a.0", "b")]
    assert result.folded[0].kernel == ()
    assert difference(result.model(noise()), network(noise())) <= 1e-12
    assert fold(result.model, DOUBLE).folded == []


@pytest.mark.parametrize(
    "pool",
    [
        nn.AvgPool2d(2),
        nn.AvgPool2d(3, 2, padding=1, count_include_pad=False),
        nn.AvgPool2d(2, ceil_mode=True),
        nn.AdaptiveAvgPool2d((3, 4)),
        nn.Upsample(scale_factor=2, mode="nearest"),
        nn.Upsample(size=(20, 21), mode="bilinear"),
        lambda x: F.interpolate(x, scale_factor=2),
        lambda x: F.interpolate(x, size=(7, 9), mode="bicubic"),
    ],
)
def test_pooling_and_resizing_between_convolutions(pool):
    network = between(pool, conv(WIDTH, 6, 1), conv(6, 5, padding=0))
    result = fold(network, DOUBLE)
    assert [merge.layers for merge in result.folded] == [("a", "b")]
    assert difference(result.model(noise()), network(noise())) <= 1e-12


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(2),
        nn.AvgPool2d(3, 2, padding=1),  # counts zeros: not the average of a constant
        nn.AvgPool2d(2, divisor_override=3),
        lambda x: x.mean(1, keepdim=True).expand_as(x),
        lambda x: x.transpose(0, 1).transpose(0, 1),
        lambda x: F.interpolate(x, scale_factor=2, mode="nearest").relu(),
    ],
)
def test_what_does_not_commute(pool):
    assert fold(between(pool, conv(WIDTH, 6, 1), conv(6, 5, padding=0)), DOUBLE).folded == []


def test_only_pointwise_layers_commute():
    network = nn.Sequential(
        conv(WIDTH, 6), removed_activation(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)
    )
    assert fold(network.double().eval(), DOUBLE).folded == []


def test_flattening_an_image_is_not_per_channel():
    network = nn.Sequential(conv(WIDTH, 6, 1), removed_activation(), nn.Flatten(), nn.Linear(6 * 15 * 13, 3))
    assert fold(network.double().eval(), DOUBLE).folded == []


def test_padding_behind_a_pooling_stays():
    """Hoisting it would have to go through the pooling."""
    network = nn.Sequential(conv(WIDTH, 6, 1), removed_activation(), nn.AvgPool2d(2), conv(6, 5)).double().eval()
    hard, report = hoist_padding(network, DOUBLE)
    assert report == []
    result = fold(hard, DOUBLE)
    assert result.folded == []
    assert result.skipped[-1].reason == "3 (Conv2d) pads behind 2 (AvgPool2d), so merging is wrong at the borders"
    network[0].bias = None
    assert len(fold(network, DOUBLE).folded) == 1


def test_the_head_of_a_classifier():
    """The last convolution and the classifier of a MobileNet: the scan finds them; merged they cost one pixel."""
    network = nn.Sequential(
        conv(WIDTH, 8, 1), nn.BatchNorm2d(8), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    )
    (candidate,) = scan(network, EXAMPLE).candidates
    assert candidate.activations == ("2",)
    assert candidate.macs == (8 * WIDTH * 15 * 13 + 8 * 3, WIDTH * 3)


@pytest.mark.parametrize(
    ("last", "moves"),
    [(nn.AdaptiveAvgPool2d(1), True), (nn.Upsample(scale_factor=2), False), (nn.Flatten(2), False)],
)
def test_what_comes_behind_the_last_layer_moves_only_where_that_saves_work(last, moves):
    """A pooling: the merged layer then runs on one pixel. Not an upsampling, nor what only changes the shape."""
    layers = nn.Conv2d(WIDTH, 6, 1), removed_activation(), nn.Conv2d(6, 5, 1), last, nn.ReLU()
    network = nn.Sequential(*layers).double().eval()
    result = fold(network, DOUBLE)
    assert len(result.folded) == 1
    calls = [node.target for node in result.model.graph.nodes if node.op == "call_module"]
    assert calls == (["3", "0_2", "4"] if moves else ["0_2", "3", "4"])
    assert difference(result.model(noise()), network(noise())) <= 1e-12


def test_layers_between_two_transpositions_stay_linear():
    """The token mixing of an MLP-Mixer."""
    network = Calls(
        lambda m, x: m.b(m.act(m.a(m.norm(x).transpose(1, 2)))).transpose(1, 2) + x,
        norm=nn.LayerNorm(WIDTH), a=nn.Linear(7, 16), act=removed_activation(), b=nn.Linear(16, 7),
    ).double().eval()  # fmt: skip
    x = torch.randn(2, 7, WIDTH, dtype=torch.float64)
    result = fold(network, x)
    assert [type(result.model.get_submodule(merge.name)) for merge in result.folded] == [nn.Linear]
    assert difference(result.model(x), network(x)) <= 1e-12


def test_an_anchor_that_is_added_to_itself_before_a_pooling():
    layers = {"a": nn.Conv2d(WIDTH, 3, 1), "act": removed_activation(), "b": nn.Conv2d(3, 5, 1)}
    network = Calls(lambda m, x: m.b(m.act(m.a(x + x))).mean((2, 3)).relu(), **layers).double().eval()
    result = fold(network, DOUBLE)
    assert [merge.layers for merge in result.folded] == [("a", "b")]
    assert difference(result.model(noise()), network(noise())) <= 1e-12
