"""A scale and a shift per channel in place of an activation: merged exactly, its shift minded at the borders."""

import pytest
import torch
from torch import nn

from layer_folding.fold import fold, hoist_padding
from layer_folding.fold.graph.changes import remove
from layer_folding.fold.graph.channel_affine import ChannelAffine
from layer_folding.fold.graph.tracing import trace
from layer_folding.fold.models import build
from tests.fold.networks import WIDTH, Skip, conv, difference, noise, randomised


def affine(channels: int, axis: int = 1) -> ChannelAffine:
    generator = torch.Generator().manual_seed(0)
    return ChannelAffine(*(torch.randn(channels, generator=generator) for _ in range(2)), axis)


def merged(network: nn.Module, example: torch.Tensor) -> list[tuple[str, ...]]:
    network, example = randomised(network).double().eval(), example.double()
    result = fold(network, example)
    assert difference(result.model(example), network(example)) < 1e-12
    return [merge.layers for merge in result.folded]


@pytest.mark.parametrize("bias", [True, False])
def test_hoisted(bias):
    network = nn.Sequential(conv(WIDTH, 6, bias=bias), affine(6), conv(6, 5, stride=2), nn.ReLU()).double()
    assert merged(network, noise()) == []  # the second pads what is not zero beyond the edge
    hoisted, _ = hoist_padding(network, noise())
    assert merged(hoisted, noise()) == [("0", "2")]


def test_a_shift_behind_a_pointwise_layer_gives_a_bias_by_pixel():
    network = nn.Sequential(conv(WIDTH, 6, 1, bias=False), affine(6), conv(6, 5), nn.ReLU()).double()
    assert merged(network, noise()) == [("0", "2")]
    assert merged(hoist_padding(network, noise())[0], noise()) == [("0", "2")]


def test_with_a_skip():
    body = nn.Sequential(conv(WIDTH, 6), nn.BatchNorm2d(6), affine(6), conv(6, WIDTH), nn.BatchNorm2d(WIDTH))
    network = nn.Sequential(conv(WIDTH, WIDTH), nn.ReLU(), Skip(body), nn.ReLU()).double()
    (layers,) = merged(hoist_padding(network, noise())[0], noise())
    assert layers == ("2.body.0", "2.body.3")


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (nn.Sequential(nn.Linear(7, 6), affine(6, -1), nn.Linear(6, 5)), (2, 7)),
        (nn.Sequential(nn.Linear(7, 6), affine(6, -1), nn.Linear(6, 5)), (2, 4, 7)),
        (nn.Sequential(nn.Conv1d(7, 6, 3), affine(6), nn.Conv1d(6, 5, 3)), (2, 7, 9)),
        (nn.Sequential(nn.Conv3d(3, 6, 3), affine(6), nn.Conv3d(6, 5, 1)), (2, 3, 5, 5, 5)),
    ],
)
def test_on_every_kind_of_layer(network, shape):
    assert merged(network, torch.randn(shape, generator=torch.Generator().manual_seed(0))) == [("0", "2")]


def test_removal_leaves_one():
    traced = trace(build("resnet20", 10), torch.zeros(1, 3, 32, 32))
    removed = remove(traced, ["layer2.0.relu"], "affine").get_submodule("layer2.0.relu")
    assert isinstance(removed, ChannelAffine) and removed.axis == 1
    assert torch.equal(removed.scale, torch.ones(32)) and torch.equal(removed.shift, torch.zeros(32))
