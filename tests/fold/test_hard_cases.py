"""Pairs of convolutions for which simple formulas, such as a kernel of k1 + k2 - 1, are wrong."""

import pytest
import torch
from torch import nn

from layer_folding.fold import fold
from layer_folding.fold.graph.changes import removed_activation
from tests.fold.networks import difference, randomised


def pair(first: tuple[int, ...], second: tuple[int, ...], channels: int = 6) -> nn.Sequential:
    """Convolutions of (kernel, stride, padding, dilation, groups), a BatchNorm and a removed activation in between."""
    convolutions = [nn.Conv2d(channels, channels, *options) for options in (first, second)]
    layers = convolutions[0], nn.BatchNorm2d(channels), removed_activation(), convolutions[1]
    return randomised(nn.Sequential(*layers)).double()


# Each with kernel, stride, dilation and groups of the one layer that does the same.
CASES = {
    "stride 2, then 3x3": (pair((3, 2, 1), (3,)), 7, 2, 1, 1),
    "stride 2, then stride 2": (pair((3, 2), (3, 2)), 7, 4, 1, 1),
    "stride 3, then 2x2": (pair((2, 3), (2,)), 5, 3, 1, 1),
    "stride 2, then dilation 2": (pair((3, 2), (3, 1, 0, 2)), 11, 2, 1, 1),
    "dilation 2, then dilation 2": (pair((3, 1, 0, 2), (3, 1, 0, 2)), 5, 1, 2, 1),
    "dilation 3, then dilation 2": (pair((2, 1, 0, 3), (2, 1, 0, 2)), 6, 1, 1, 1),
    "1x1 with stride 2, then 3x3": (pair((1, 2), (3,)), 3, 2, 2, 1),
    "groups 3, then groups 2": (pair((3, 1, 1, 1, 3), (3, 1, 0, 1, 2)), 5, 1, 1, 1),
    "groups 4, then groups 6": (pair((3, 1, 1, 1, 4), (3, 1, 0, 1, 6), channels=12), 5, 1, 1, 2),
    "depthwise, then groups 2": (pair((3, 1, 1, 1, 6), (1, 1, 0, 1, 2)), 3, 1, 1, 2),
    "even kernels": (pair((2, 1, 1), (4,)), 5, 1, 1, 1),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("size", [(23, 23), (24, 17)], ids=["odd", "uneven"])
def test_one_layer_for_two(name, size):
    network, kernel, stride, dilation, groups = CASES[name]
    x = torch.randn(2, network[0].in_channels, *size, dtype=torch.float64)
    result = fold(network, x)
    (layer,) = [module for module in result.model.modules() if isinstance(module, nn.Conv2d)]
    assert layer.kernel_size == (kernel, kernel)
    assert (layer.stride, layer.dilation, layer.groups) == ((stride, stride), (dilation, dilation), groups)
    assert difference(result.model(x), network(x)) <= 1e-9
