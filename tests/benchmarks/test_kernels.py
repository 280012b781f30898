"""The two ways to a merged kernel agree, on every size of image that is used, and a difference is noticed."""

import pytest
import torch

from benchmarks import kernels
from benchmarks.kernels import by_autograd, by_composition, convolutions
from layer_folding.errors import CheckError


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("pixels", [9, 13, 21])
def test_both_ways_agree(stride, pixels):
    layers = convolutions((3, 4, stride))
    weight, bias = by_autograd(layers, pixels)
    merged, offset = by_composition(layers, torch.float64)
    assert weight.shape == merged.shape == (4, 3, 3 + 2 * stride, 3 + 2 * stride)
    torch.testing.assert_close(weight.double(), merged, rtol=0, atol=1e-6)
    torch.testing.assert_close(bias.double(), offset, rtol=0, atol=1e-6)


def test_composition_is_in_the_dtype_asked_for():
    layers = convolutions((3, 4, 1))
    for dtype in (torch.float32, torch.float64):
        assert {value.dtype for value in by_composition(layers, dtype)} == {dtype}


def test_check_passes_and_leaves_the_layers_alone():
    layers = convolutions((3, 4, 2))
    kernels.check("pair", layers)
    assert all(p.dtype == torch.float32 and p.requires_grad and p.grad is None for m in layers for p in m.parameters())


@pytest.mark.parametrize(("off", "what"), [(0, "weights"), (1, "biases")])
def test_a_difference_is_named(monkeypatch, off, what):
    def wrong(layers, dtype):
        values = list(by_composition(layers, dtype))
        values[off] = values[off] * (1 + 1e-8)
        return values

    monkeypatch.setattr(kernels, "by_composition", wrong)
    with pytest.raises(CheckError, match=rf"3-4-4: the {what} of the two ways differ by 1.0e-08"):
        kernels.compare((3, 4, 1), pixels=9, rounds=1, progress=lambda text: None)


@pytest.mark.slow
def test_a_row_has_the_paper_as_baseline():
    row = kernels.compare((3, 4, 2), pixels=13, rounds=2, progress=lambda text: None)
    assert (row.name, row.rounds) == ("3-4-4, stride 2", 2)
    assert list(row.samples_ms) == ["autograd, float32", "fold.affine, float32", "fold.affine, float64"]
