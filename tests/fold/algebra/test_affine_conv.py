"""The algebra against the layers themselves, applied one after the other in float64."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from layer_folding.fold.algebra.affine_conv import AffineConv
from layer_folding.fold.algebra.geometry import Geometry
from tests.fold.networks import difference

CHANNELS = (2, 4, 6)


def make(geometry: Geometry, seed: int) -> AffineConv:
    generator = torch.Generator().manual_seed(seed)
    g = geometry
    shape = (g.out_channels, g.in_channels // g.groups, *g.kernel)
    weight = torch.randn(shape, generator=generator, dtype=torch.float64)
    return AffineConv(g, weight, torch.randn(g.out_channels, generator=generator, dtype=torch.float64))


def apply(layer: AffineConv, x: Tensor) -> Tensor:
    """The layer by PyTorch's own functions, one axis of padding at a time."""
    g = layer.geometry
    if g.axes == 0:
        parts = zip(x.chunk(g.groups, 1), layer.weight.chunk(g.groups), layer.bias.chunk(g.groups), strict=True)
        return torch.cat([F.linear(*part) for part in parts], 1)
    x = F.pad(x, [amount for pads in reversed(g.padding) for amount in pads])
    convolution = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[g.axes]
    return convolution(x, layer.weight, layer.bias, stride=g.stride, dilation=g.dilation, groups=g.groups)


def same(a: AffineConv, b: AffineConv) -> bool:
    close = {"rtol": 0, "atol": 1e-9 * max(1, a.weight.abs().max().item())}
    return (
        a.geometry == b.geometry
        and torch.allclose(a.weight, b.weight, **close)
        and torch.allclose(a.bias, b.bias, **close)
    )


def image(geometry: Geometry, seed: int = 5) -> Tensor:
    """An input for which the output has three pixels per axis, and a few more pixels than those need."""
    g = geometry
    size = [
        span - lo - hi + 2 * stride + stride // 2
        for span, (lo, hi), stride in zip(g.span, g.padding, g.stride, strict=True)
    ]
    size = [max(extent, 1) for extent in size]
    return torch.randn(2, g.in_channels, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@st.composite
def geometries(draw: st.DrawFn, channels: int, axes: int, padded: bool) -> Geometry:
    """A layer with ``channels`` inputs; depthwise, grouped or dense; padded or cropped only on request."""
    out = draw(st.sampled_from(CHANNELS))
    kernel = tuple(draw(st.integers(1, 4)) for _ in range(axes))
    return Geometry(
        channels,
        out,
        kernel,
        tuple(draw(st.integers(1, 3)) for _ in range(axes)),
        tuple((draw(st.integers(0, 3)), draw(st.integers(0, 3))) if padded else (0, 0) for _ in range(axes)),
        tuple(draw(st.integers(1, 2)) for _ in range(axes)),
        draw(st.sampled_from([g for g in (1, 2, 3, 4, 6) if channels % g == out % g == 0])),
    )


@st.composite
def sequences(draw: st.DrawFn, layers: int, axes: st.SearchStrategy[int]) -> list[AffineConv]:
    """Layers that fit, of which only the first pads."""
    chain, channels, n = [], draw(st.sampled_from(CHANNELS)), draw(axes)
    for i in range(layers):
        geometry = draw(geometries(channels, n, padded=i == 0))
        chain.append(make(geometry, seed=i))
        channels = geometry.out_channels
    return chain


@settings(max_examples=150, deadline=None)
@given(sequences(2, st.integers(0, 2)))
def test_then_is_one_layer_after_the_other(layers):
    first, second = layers
    merged = first.then(second)
    x = image(merged.geometry)
    assert difference(merged(x), apply(second, apply(first, x))) <= 1e-9
    assert merged.weight.shape == (
        second.geometry.out_channels,
        first.geometry.in_channels // merged.geometry.groups,
        *merged.geometry.kernel,
    )


@settings(max_examples=60, deadline=None)
@given(sequences(3, st.integers(0, 1)))
def test_then_is_associative(layers):
    a, b, c = layers
    assert same(a.then(b).then(c), a.then(b.then(c)))


def test_then_in_three_dimensions():
    g = Geometry(2, 4, (3, 1, 2), (2, 1, 1), ((1, 1), (0, 0), (0, 1)), (1, 1, 2), 2)
    first, second = make(g, 0), make(Geometry(4, 2, (1, 2, 2), (1, 2, 1), ((0, 0),) * 3, (1, 1, 1), 1), 1)
    x = torch.randn(1, 2, 7, 6, 8, dtype=torch.float64)
    assert difference(first.then(second)(x), apply(second, apply(first, x))) <= 1e-9


def test_the_formulas_of_one_composition():
    first = Geometry(3, 4, (3,), (2,), ((1, 2),), (1,), 1)
    second = Geometry(4, 5, (3,), (3,), ((1, 0),), (2,), 1)
    merged = first.then(second)
    assert merged == Geometry(3, 5, (11,), (6,), ((3, 2),), (1,), 1)
    assert merged.span == (11,)
    assert merged.parameters == 5 * 3 * 11 + 5
    assert merged.macs((7,)) == 5 * 3 * 11 * 7


def test_dilation_stays_where_every_tap_is_dilated():
    dilated = Geometry(2, 2, (3, 3), (1, 1), ((2, 2),) * 2, (2, 2), 1)
    assert dilated.then(Geometry.pointwise(2, 2, axes=2)).dilation == (2, 2)
    assert dilated.then(dilated).dilation == (2, 2)
    assert dilated.then(dilated).kernel == (5, 5)


def test_groups_that_do_not_divide_each_other():
    first, second = (make(Geometry(12, 12, (2,), (1,), ((0, 0),), (1,), groups), groups) for groups in (4, 6))
    x = torch.randn(2, 12, 9, dtype=torch.float64)
    assert first.then(second).geometry.groups == 2
    assert difference(first.then(second)(x), apply(second, apply(first, x))) <= 1e-9


@settings(max_examples=100, deadline=None)
@given(sequences(1, st.integers(0, 2)))
def test_identity_is_neutral(layers):
    (layer,) = layers
    g = layer.geometry
    before, after = (AffineConv.identity(c, g.axes, layer.weight) for c in (g.in_channels, g.out_channels))
    x = image(g)
    assert torch.equal(before(x), x)
    for merged in (before.then(layer), layer.then(after)):
        assert difference(merged(x), apply(layer, x)) <= 1e-12
        assert merged.geometry.kernel == g.kernel
        assert merged.geometry.padding == g.padding


@st.composite
def summands(draw: st.DrawFn) -> tuple[AffineConv, AffineConv, Tensor]:
    """Two layers of one input that give outputs of one size, by other kernels, dilations, groups and paddings."""
    axes, channels = draw(st.integers(0, 2)), draw(st.sampled_from(CHANNELS))
    first = draw(geometries(channels, axes, padded=True))
    x = image(first)
    kernel, padding, dilation = [], [], []
    for axis in range(axes):
        k, d, s = draw(st.integers(1, 4)), draw(st.integers(1, 2)), first.stride[axis]
        span = d * (k - 1) + 1
        total = x.shape[2 + axis] + sum(first.padding[axis]) - first.span[axis]
        unread = draw(st.integers(0, s - 1))  # pixels after the last that is read; they need not agree
        lo = draw(st.integers(-1, 3))
        kernel.append(k)
        dilation.append(d)
        padding.append((lo, total // s * s + unread + span - x.shape[2 + axis] - lo))
    out = first.out_channels
    groups = draw(st.sampled_from([g for g in (1, 2, 4, 6) if channels % g == out % g == 0]))
    second = Geometry(channels, out, tuple(kernel), first.stride, tuple(padding), tuple(dilation), groups)
    return make(first, 0), make(second, 1), x


@settings(max_examples=150, deadline=None)
@given(summands())
def test_plus_is_the_sum(parts):
    a, b, x = parts
    expected = apply(a, x) + apply(b, x)
    assert difference(a.plus(b)(x), expected) <= 1e-9
    assert difference(b.plus(a)(x), expected) <= 1e-9


@settings(max_examples=40, deadline=None)
@given(summands(), st.data())
def test_then_distributes_over_plus(parts, data):
    a, b, x = parts
    after = make(data.draw(geometries(a.geometry.out_channels, a.geometry.axes, padded=False)), 2)
    after.bias.zero_()  # which the right side would add twice
    x = F.pad(x, [30] * 2 * a.geometry.axes)
    merged, apart = a.plus(b).then(after), a.then(after).plus(b.then(after))
    assert difference(merged(x), apart(x)) <= 1e-9


def test_identity_skip_is_one_tap_in_the_middle():
    conv = make(Geometry(2, 2, (3, 3), (1, 1), ((1, 1),) * 2, (1, 1), 1), 0)
    merged = conv.plus(AffineConv.identity(2, 2, conv.weight))
    expected = conv.weight.clone()
    expected[[0, 1], [0, 1], 1, 1] += 1
    assert torch.equal(merged.weight, expected)
    assert merged.geometry == conv.geometry


@pytest.mark.parametrize(
    ("after", "message"),
    [
        (Geometry.pointwise(5, 5, axes=2), "4 channels on 2 axes with a layer for 5 channels on 2 axes"),
        (Geometry.pointwise(4, 4, axes=0), "on 2 axes with a layer for 4 channels on 0 axes"),
    ],
)
def test_then_refuses_what_does_not_fit(after, message):
    with pytest.raises(ValueError, match=message):
        Geometry.pointwise(3, 4, axes=2).then(after)


@pytest.mark.parametrize(
    "other",
    [
        Geometry.pointwise(3, 5, axes=1),
        Geometry.pointwise(2, 4, axes=1),
        Geometry.pointwise(3, 4, axes=2),
        Geometry(3, 4, (1,), (2,), ((0, 0),), (1,), 1),
    ],
    ids=["outputs", "inputs", "axes", "stride"],
)
def test_plus_refuses_what_does_not_fit(other):
    with pytest.raises(ValueError, match="channels, axes and strides must agree"):
        Geometry.pointwise(3, 4, axes=1).plus(other)
