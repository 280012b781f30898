"""Average poolings merge like the convolutions that they are, when asked."""

import pytest
import torch.nn.functional as F
from torch import nn

from layer_folding.fold import fold, gates, hoist_padding, linearize, scan
from tests.fold.networks import EXAMPLE, WIDTH, Calls, conv, difference, noise, randomised, removed_activation

DOUBLE = EXAMPLE.double()


@pytest.mark.parametrize(
    "pool",
    [
        nn.AvgPool2d(2),
        nn.AvgPool2d(3, stride=1, padding=1),
        nn.AvgPool2d((2, 3), (1, 2)),
        nn.AvgPool2d(2, divisor_override=3),
        nn.AvgPool2d(3, 2, padding=(1, 0)),
    ],
)
def test_between_two_convolutions(pool):
    network = nn.Sequential(conv(WIDTH, 6), removed_activation(), pool, nn.BatchNorm2d(6), conv(6, 5))
    network = randomised(network).double().eval()
    assert fold(network, DOUBLE).folded == []
    hard, report = hoist_padding(network, DOUBLE, average_pooling=True)
    assert len(report) == 1
    result = fold(hard, DOUBLE)
    assert [merge.layers for merge in result.folded] == [("0", "4")]
    assert difference(result.model(noise()), hard(noise())) <= 1e-9


def test_a_shortcut_that_pools():
    """ResNet-D: the shortcut of a strided block averages before its projection."""
    network = Calls(
        lambda m, x: m.b(m.a(x)) + m.projection(F.avg_pool2d(x, 2)),
        a=nn.Sequential(conv(WIDTH, 6, 2, padding=0, stride=2), removed_activation()),
        b=conv(6, 5, 1), projection=conv(WIDTH, 5, 1),
    ).double().eval()  # fmt: skip
    example = DOUBLE[:, :, :14, :12]
    assert [m.layers for m in fold(network, example).folded] == [("a.0", "b")]
    result = fold(network, example, average_pooling=True)
    assert [m.layers for m in result.folded] == [("a.0", "b", "projection")]
    x = noise()[:, :, :14, :12]
    assert difference(result.model(x), network(x)) <= 1e-12


@pytest.mark.parametrize("pool", [nn.AvgPool2d(2, ceil_mode=True), nn.AvgPool2d(3, 2, 1, count_include_pad=False)])
def test_averages_over_fewer_pixels_at_the_borders_stay(pool):
    network = nn.Sequential(conv(WIDTH, 6, 3), removed_activation(), pool, conv(6, 5, 1)).double().eval()
    result = fold(network, DOUBLE, average_pooling=True)
    assert result.folded == []
    assert result.skipped[-1].reason == "2 (AvgPool2d) averages over fewer pixels at the borders"


def test_scan_and_gates():
    network = nn.Sequential(conv(WIDTH, 6), nn.ReLU(), nn.AvgPool2d(2), conv(6, 5, 1))
    assert scan(network, EXAMPLE).candidates == []
    assert [c.activations for c in scan(network, EXAMPLE, average_pooling=True).candidates] == [("1",)]
    assert list(gates(linearize(network, EXAMPLE, average_pooling=True))) == ["1"]
