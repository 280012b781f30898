"""Depth, parameters and multiply-accumulates, by hand."""

import pytest
import torch
from torch import nn

from layer_folding.errors import InputError
from layer_folding.fold import cost, depth, fold, hoist_padding
from layer_folding.fold.graph.tracing import trace
from layer_folding.fold.models import build
from layer_folding.fold.regions.costs import Cost, folded_depth
from tests.fold.networks import EXAMPLE, WIDTH, Skip, activations, blocks, chain, conv, without

IMAGE = torch.zeros(1, 3, 32, 32)


def test_a_small_network_by_hand():
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),  # 8x3x3x3 weights, 16x16 pixels
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8),  # 8x1x3x3 weights, 14x14 pixels
        nn.ConvTranspose2d(8, 4, 2, stride=2),  # 8x4x2x2 weights, from 14x14 pixels
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 10),
    )
    parameters = 216 + 16 + (72 + 8) + (128 + 4) + (40 + 10)
    macs = 216 * 256 + 72 * 196 + 128 * 196 + 40
    assert cost(network, IMAGE) == Cost(4, parameters, macs)
    assert cost(network, IMAGE.expand(7, 3, 32, 32)) == Cost(4, parameters, macs)  # of one image


def test_linear_layers_on_tokens():
    assert cost(nn.Sequential(nn.Linear(5, 7)), torch.zeros(2, 11, 5)) == Cost(1, 42, 11 * 35)


def test_depth_is_the_longest_path():
    short, long = nn.Sequential(conv(WIDTH, 4)), nn.Sequential(*[conv(WIDTH, 4) for _ in range(3)])
    assert depth(Skip(short, long), EXAMPLE) == 3
    assert depth(nn.Sequential(Skip(short), Skip(long)), EXAMPLE) == 4
    assert depth(nn.ReLU(), EXAMPLE) == 0


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_resnet20(shortcut):
    """Projection shortcuts run beside a block, so they add no depth; parameters as published (He et al., table 6)."""
    network = build("resnet20", 10, shortcut=shortcut)
    measured = cost(network, IMAGE)
    assert measured.depth == 20
    projections = 0 if shortcut == "A" else (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)
    assert measured.parameters == 269722 + projections
    stem, first = 9 * 3 * 16 * 1024, 6 * 9 * 16 * 16 * 1024
    later = 2 * (9 * 16 * 32 * 256 + 5 * 9 * 32 * 32 * 256)
    assert measured.macs == stem + first + later + 640 + (0 if shortcut == "A" else 2 * 16 * 32 * 256)
    assert network.training


def test_a_module_that_is_called_twice_counts_twice():
    layer = conv(WIDTH, WIDTH)
    network = nn.Sequential(layer, nn.ReLU(), layer)
    assert cost(network, EXAMPLE) == Cost(2, 148, 2 * 144 * 15 * 13)


@pytest.mark.slow
@pytest.mark.parametrize("kind", blocks())
def test_folded_depth_is_the_depth_after_folding(kind):
    network = blocks()[kind]
    for names in ([], *([name] for name in activations(network)), activations(network)):
        traced = trace(network, EXAMPLE)
        predicted = folded_depth(traced, [node for node in traced.graph.nodes if node.target in names])
        hard, _ = hoist_padding(without(network, names), EXAMPLE)
        assert depth(fold(hard, EXAMPLE).model, EXAMPLE) == predicted <= depth(network, EXAMPLE)
    assert predicted == 2  # nothing but the pooling is left that is not linear


def test_an_input_that_does_not_fit():
    with pytest.raises(InputError, match=r"does not accept an input of shape \[1, 3, 32, 32\]"):
        cost(chain(), IMAGE)
