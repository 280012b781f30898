"""Cropping a merged kernel: the same tap in the middle, the same size of the output."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from layer_folding import InputError
from layer_folding.fold.algebra.affine_conv import AffineConv
from layer_folding.fold.algebra.geometry import Geometry
from layer_folding.fold.fitting.layer_shapes import crop


def square(kernel: int, **options) -> Geometry:
    reach = (kernel - 1) // 2
    given = {"stride": (1, 1), "padding": ((reach, reach),) * 2, "dilation": (1, 1), "groups": 1, **options}
    return Geometry(4, 4, (kernel, kernel), **given)


@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 3), st.integers(1, 2), st.integers(-1, 4))
def test_the_output_keeps_its_size(whole, part, stride, dilation, padding):
    merged = Geometry(2, 3, (whole,), (stride,), ((padding, padding + 1),), (dilation if whole > 1 else 1,), 1)
    if part > whole or ((whole - part) % 2 and part % 2 == 0):
        return
    found = crop(merged, part, "a")
    x, layer = torch.randn(1, 2, 31), AffineConv(merged, torch.randn(3, 2, whole), torch.zeros(3))
    assert found.of(layer)(x).shape == layer(x).shape


@pytest.mark.parametrize("shape", [1, 3, 5, (3, 1), "merged", "depthwise"])
def test_what_stays_is_the_same_function_where_the_rest_is_zero(shape):
    merged = square(5)
    found = crop(merged, shape, "a")
    kept = torch.zeros(4, 4, 5, 5)
    kernel = found.geometry.kernel
    lo = [(5 - k) // 2 for k in kernel]
    kept[:, :, lo[0] : lo[0] + kernel[0], lo[1] : lo[1] + kernel[1]] = torch.randn(4, 4, *kernel)
    if shape == "depthwise":
        kept *= torch.eye(4)[:, :, None, None]
    layer, x = AffineConv(merged, kept, torch.randn(4)), torch.randn(2, 4, 9, 9)
    torch.testing.assert_close(found.of(layer)(x), layer(x))


def test_depthwise_of_a_grouped_layer():
    merged = square(3, groups=2)
    weight = torch.randn(4, 2, 3, 3)
    found = crop(merged, "depthwise", "a").of(AffineConv(merged, weight, torch.zeros(4)))
    assert found.weight.squeeze(1).equal(torch.stack([weight[0, 0], weight[1, 1], weight[2, 0], weight[3, 1]]))


def test_a_linear_layer_has_size_1():
    linear = Geometry.pointwise(6, 3, axes=0)
    assert crop(linear, 1, "a").geometry == crop(linear, "merged", "a").geometry == linear
    with pytest.raises(InputError, match="does not fit into the merged kernel, which is 1"):
        crop(linear, 3, "a")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (7, "^a b: shape 7 does not fit into the merged kernel, which is 5x5; give a smaller one$"),
        ((3, 7), "does not fit"),
        ((3, 3, 3), "does not fit"),
        (4, "^a b: shape 4 has no centre in a kernel of 5x5; give odd sizes$"),
        (0, "shape 0 is unknown; give a kernel size such as 3"),
        (True, "unknown"),
        ((), "unknown"),
        ("full", "shape 'full' is unknown"),
        (3.0, "unknown"),
    ],
)
def test_a_shape_that_does_not_fit(shape, message):
    with pytest.raises(InputError, match=message):
        crop(square(5), shape, "a b")


def test_a_depthwise_layer_keeps_the_number_of_channels():
    merged = Geometry(4, 6, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    with pytest.raises(InputError, match="here 4 channels become 6; give a kernel size"):
        crop(merged, "depthwise", "a")


def test_a_transposed_convolution_is_not_fitted():
    merged = Geometry(4, 6, (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 1, transposed=True)
    with pytest.raises(InputError, match="transposed"):
        crop(merged, 1, "a")
