"""Transposed convolutions merge with the pointwise layers around them."""

import pytest
import torch
from torch import nn

from layer_folding.fold import fold, hoist_padding, scan
from layer_folding.fold.regions.borders import BiasMap
from tests.fold.networks import EXAMPLE, WIDTH, Skip, conv, difference, noise, randomised, removed_activation

DOUBLE = EXAMPLE.double()
KINDS = [
    {"kernel_size": 2, "stride": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
    {"kernel_size": (3, 4), "stride": (1, 3), "padding": (1, 0), "dilation": (2, 1)},
    {"kernel_size": 3, "stride": 2, "groups": 2, "bias": False},
    {"kernel_size": 2, "stride": 3, "output_padding": 2},
]


def around(options: dict, bias: bool = True) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(WIDTH, 6, 1, bias=bias),
        removed_activation(),
        nn.ConvTranspose2d(6, 4, **options),
        nn.BatchNorm2d(4),
        removed_activation(),
        nn.Conv2d(4, 3, 1),
    )


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("options", KINDS)
def test_pointwise_layers_on_both_sides(options, bias):
    network = randomised(around(options, bias)).double().eval()
    result = fold(network, DOUBLE)
    (merged,) = result.folded
    assert merged.layers == ("0", "2", "5")
    assert difference(result.model(noise()), network(noise())) <= 1e-12
    kinds = {type(module) for module in result.model.modules()}
    assert nn.ConvTranspose2d in kinds
    assert (BiasMap in kinds) == bias  # spread over fewer pixels at the borders
    assert fold(result.model, DOUBLE).folded == []
    hard, report = hoist_padding(network, DOUBLE)
    assert report == []
    assert difference(fold(hard, DOUBLE).model(noise()), network(noise())) <= 1e-12


def test_the_multiply_accumulates_are_those_of_the_input():
    network = nn.Sequential(nn.ConvTranspose2d(WIDTH, 6, 2, 2), nn.ReLU(), nn.Conv2d(6, 3, 1))
    (candidate,) = scan(network, EXAMPLE).candidates
    assert candidate.macs == (15 * 13 * WIDTH * 6 * 4 + 30 * 26 * 6 * 3, 15 * 13 * WIDTH * 3 * 4)


def test_what_is_around_it_must_be_pointwise():
    network = nn.Sequential(nn.ConvTranspose2d(WIDTH, 6, 2, 2), removed_activation(), conv(6, 3, padding=0))
    assert fold(network.double().eval(), DOUBLE).folded == []


def test_it_does_not_add_up():
    network = Skip(nn.ConvTranspose2d(WIDTH, 6, 3, padding=1), conv(WIDTH, 6)).double().eval()
    result = fold(network, DOUBLE)
    assert result.folded == []
    assert difference(result.model(noise()), network(noise())) == 0


def test_one_dimension():
    network = nn.Sequential(nn.ConvTranspose1d(2, 4, 3, 2), removed_activation(), nn.Conv1d(4, 2, 1)).double().eval()
    x = torch.randn(2, 2, 9, dtype=torch.float64)
    result = fold(network, x)
    assert len(result.folded) == 1
    assert difference(result.model(x), network(x)) <= 1e-12
