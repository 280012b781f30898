"""Padding behind a layer that looks at single pixels: a bias per pixel makes merging exact, for one size of image."""

import pytest
import torch
from torch import nn

from layer_folding.fold import fold, hoist_padding
from layer_folding.fold.regions.borders import BiasMap
from tests.fold.networks import (
    EXAMPLE,
    WIDTH,
    Skip,
    conv,
    difference,
    noise,
    randomised,
    removed_activation,
)  # fmt: skip

DOUBLE = EXAMPLE.double()


def expand(**second) -> nn.Module:
    network = nn.Sequential(conv(WIDTH, 6, 1), nn.BatchNorm2d(6), removed_activation(), conv(6, 5, **second))
    return randomised(network).double().eval()


@pytest.mark.parametrize(
    "second",
    [{}, {"stride": 2}, {"kernel": 5}, {"kernel": 2, "padding": 1}, {"padding": (2, 0)}, {"padding": 2, "dilation": 2}],
)
def test_it_is_exact_without_hoisting(second):
    network = expand(**second)
    result = fold(network, DOUBLE)
    assert [merge.layers for merge in result.folded] == [("0", "3")]
    assert difference(result.model(noise()), network(noise())) <= 1e-12
    maps = [module for module in result.model.modules() if isinstance(module, BiasMap)]
    assert [m.bias.shape for m in maps] == [network(noise()).shape[1:]]
    assert result.folded[0].parameters[1] == sum(p.numel() for p in result.model.parameters())


def test_an_inverted_residual_is_exact_without_hoisting():
    body = nn.Sequential(
        conv(WIDTH, 12, 1, bias=False), nn.BatchNorm2d(12), removed_activation(),
        conv(12, 12, groups=12, bias=False), nn.BatchNorm2d(12), removed_activation(),
        conv(12, WIDTH, 1, bias=False), nn.BatchNorm2d(WIDTH),
    )  # fmt: skip
    network = randomised(Skip(body)).double().eval()
    result = fold(network, DOUBLE)
    assert len(result.folded) == 1
    assert difference(result.model(noise()), network(noise())) <= 1e-12


def test_two_paddings_in_a_row_need_hoisting():
    """The linear part of the second is wrong at the border too: the first gives values there."""
    network = nn.Sequential(conv(WIDTH, 6, 1), removed_activation(), conv(6, 5), removed_activation(), conv(5, 4))
    result = fold(network.double().eval(), DOUBLE)
    assert [merge.layers for merge in result.folded] == [("0", "2")]
    assert "hoist_padding first" in result.skipped[-1].reason


def test_after_hoisting_there_is_no_map():
    hard, _ = hoist_padding(expand(), DOUBLE)
    result = fold(hard, DOUBLE)
    assert len(result.folded) == 1
    assert not any(isinstance(module, BiasMap) for module in result.model.modules())
    larger = torch.randn(1, WIDTH, 20, 20, dtype=torch.float64)
    assert difference(result.model(larger), hard(larger)) <= 1e-12


def test_no_bias_needs_no_map():
    network = nn.Sequential(conv(WIDTH, 6, 1, bias=False), removed_activation(), conv(6, 5)).double().eval()
    assert not any(isinstance(module, BiasMap) for module in fold(network, DOUBLE).model.modules())


def test_nobody_asked():
    """Without a removed activation between them the layers stay apart: a map would only cost."""
    network = nn.Sequential(conv(WIDTH, 6, 1), conv(6, 5)).double().eval()
    assert fold(network, DOUBLE).folded == []


def test_another_image_size_is_refused():
    model = fold(expand(), DOUBLE).model
    with pytest.raises(ValueError, match=r"for a value of \[5, 15, 13\] here and got \[5, 9, 9\].*hoist_padding"):
        model(torch.zeros(1, WIDTH, 9, 9, dtype=torch.float64))


def test_it_trains_and_keeps_its_dtype():
    result = fold(expand().float(), EXAMPLE)
    result.model.train()(noise(dtype=torch.float32)).sum().backward()
    assert all(p.grad is not None and p.dtype is torch.float32 for p in result.model.parameters())
