"""Normal equations against least squares written out, for every kind of convolution."""

import math
from itertools import product

import pytest
import torch

from layer_folding.fold.algebra.affine_conv import AffineConv
from layer_folding.fold.algebra.geometry import Geometry
from layer_folding.fold.fitting.moments import Moments, Positions, extents_of, rows, unknowns
from layer_folding.fold.fitting.ridge import output_statistics, solve

GEOMETRIES = {
    "linear": Geometry(6, 4, (), (), (), (), 1),
    "1-d": Geometry(6, 4, (3,), (1,), ((1, 1),), (1,), 1),
    "2-d": Geometry(4, 6, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "stride, unequal": Geometry(4, 6, (3, 1), (2, 1), ((1, 0), (0, 0)), (1, 1), 1),
    "dilation": Geometry(4, 6, (3, 3), (1, 1), ((2, 2), (2, 2)), (2, 2), 1),
    "groups": Geometry(4, 6, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 2),
    "depthwise": Geometry(4, 4, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 4),
    "cropping": Geometry(4, 6, (1, 1), (1, 1), ((-1, -1), (-1, 0)), (1, 1), 1),
    "3-d": Geometry(2, 3, (3, 2, 1), (1, 1, 1), ((1, 1), (0, 0), (0, 0)), (1, 1, 1), 1),
}


def drawn(geometry: Geometry, seed: int) -> AffineConv:
    generator = torch.Generator().manual_seed(seed)
    shape = (geometry.out_channels, geometry.in_channels // geometry.groups, *geometry.kernel)
    weight = torch.randn(shape, generator=generator, dtype=torch.float64)
    return AffineConv(geometry, weight, torch.randn(geometry.out_channels, generator=generator, dtype=torch.float64))


def inputs(geometry: Geometry, images: int = 64) -> torch.Tensor:
    size = (7, 6, 5)[: geometry.axes]
    generator = torch.Generator().manual_seed(0)
    return torch.randn((images, geometry.in_channels, *size), generator=generator, dtype=torch.float64)


def moments_of(geometry: Geometry, x: torch.Tensor, y: torch.Tensor, batch: int = 16, count: int = 10**9) -> Moments:
    moments = Moments(geometry, x.device)
    for i, (part, target) in enumerate(zip(x.split(batch), y.split(batch), strict=True)):
        at = Positions.sampled(extents_of(target, geometry.axes), count, seed=i)
        moments.add(rows(part, geometry, at), at.of(target, geometry.axes))
    return moments


@pytest.mark.parametrize("kind", GEOMETRIES)
def test_a_convolution_is_recovered_from_what_it_does(kind):
    geometry = GEOMETRIES[kind]
    truth, prior, x = drawn(geometry, 1), drawn(geometry, 2), inputs(geometry)
    found = solve(moments_of(geometry, x, truth(x)), prior, ridge=1e-13)
    torch.testing.assert_close(found.weight, truth.weight, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.bias, truth.bias, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", GEOMETRIES)
def test_rows_are_what_the_convolution_reads(kind):
    geometry = GEOMETRIES[kind]
    layer, x = drawn(geometry, 1), inputs(geometry, 16)
    y = layer(x)
    at = Positions.sampled(extents_of(y, geometry.axes), 11, seed=0)
    weight = layer.weight.flatten(1).unflatten(0, (geometry.groups, -1))
    seen = rows(x, geometry, at)
    assert seen.shape == (geometry.groups, 11, unknowns(geometry) - 1)
    actual = (seen @ weight.transpose(1, 2)).transpose(0, 1).flatten(1) + layer.bias
    torch.testing.assert_close(actual, at.of(y, geometry.axes))


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_batches_add_up(batch):
    geometry = GEOMETRIES["2-d"]
    x = inputs(geometry)
    y = torch.tanh(drawn(geometry, 1)(x))
    whole, parts = moments_of(geometry, x, y, 64), moments_of(geometry, x, y, batch)
    torch.testing.assert_close(parts.gram, whole.gram)
    torch.testing.assert_close(parts.cross, whole.cross)
    assert parts.count == y[:, 0].numel()


def test_the_fit_has_no_gradient():
    geometry = GEOMETRIES["groups"]
    x, prior, ridge = inputs(geometry), drawn(geometry, 2), 0.05
    y = torch.tanh(drawn(geometry, 1)(x))
    moments = moments_of(geometry, x, y)
    found = solve(moments, prior, ridge)
    weight, bias = found.weight.clone().requires_grad_(), found.bias.clone().requires_grad_()
    pull = 0.0
    for group in range(geometry.groups):
        seen = rows(x, geometry, Positions.sampled(extents_of(y, 2), 10**9, 0))[group]
        strength = ridge * (seen - seen.mean(0)).square().sum(0).mean()
        mine = slice(group * 3, group * 3 + 3)
        pull = pull + strength * (weight[mine] - prior.weight[mine]).square().sum()
    ((AffineConv(geometry, weight, bias)(x) - y).square().sum() + pull).backward()
    assert weight.grad.abs().max() < 1e-8
    assert bias.grad.abs().max() < 1e-8


@pytest.mark.parametrize("kind", ["constant channel", "two equal channels", "all constant"])
def test_the_ridge_carries_what_the_images_do_not_tell(kind):
    geometry = GEOMETRIES["2-d"]
    x, prior, truth = inputs(geometry), drawn(geometry, 2), drawn(geometry, 1)
    x[:, :1] = {"constant channel": 0.0, "two equal channels": x[:, 1:2], "all constant": 0.0}[kind]
    x = torch.zeros_like(x) if kind == "all constant" else x
    y = truth(x)
    found = solve(moments_of(geometry, x, y), prior, ridge=1e-6)
    assert found.weight.isfinite().all()
    torch.testing.assert_close(found(x), y, rtol=0, atol=1e-4)
    if kind != "two equal channels":
        torch.testing.assert_close(found.weight[:, 0], prior.weight[:, 0])


def test_the_spread_of_constant_inputs_is_rounding_and_no_information():
    one = AffineConv.identity(64, 2, torch.zeros((), dtype=torch.float64))
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, 64, 1, 1, dtype=torch.float64, generator=generator).mul(1000).expand(50, 64, 7, 7)
    y = torch.randn(50, 64, 7, 7, dtype=torch.float64, generator=generator)
    found = solve(moments_of(one.geometry, x, y), one, ridge=1e-3)
    torch.testing.assert_close(found(x), y.mean((0, 2, 3), keepdim=True).expand(y.shape), rtol=0, atol=1e-3)
    torch.testing.assert_close(found.weight, one.weight, rtol=0, atol=1e-3)


def test_sampled_positions_are_different_and_the_same_every_time():
    at, again = (torch.stack(Positions.sampled((3, 5, 4), 20, seed=7).index, 1) for _ in range(2))
    assert at.equal(again)
    assert len(at.unique(dim=0)) == 20
    everything = torch.stack(Positions.sampled((3, 5, 4), 60, seed=7).index, 1)
    assert [tuple(row) for row in everything.tolist()] == list(product(range(3), range(5), range(4)))


def test_a_sample_fits_nearly_as_well_as_everything():
    geometry = GEOMETRIES["2-d"]
    x, prior = inputs(geometry, 256), drawn(geometry, 2)
    y = torch.tanh(drawn(geometry, 1)(x))
    errors = [
        (solve(moments_of(geometry, x, y, count=count), prior, 1e-6)(x) - y).square().mean().item()
        for count in (10**9, 100)
    ]
    assert errors[0] <= errors[1] < 1.1 * errors[0]


def test_statistics_are_those_of_the_output():
    geometry = GEOMETRIES["groups"]
    layer, x = drawn(geometry, 1), inputs(geometry)
    y = layer(x)
    mean, variance = output_statistics(moments_of(geometry, x, y), layer)
    without_bias = (y - layer.bias.reshape(-1, 1, 1)).transpose(0, 1).flatten(1)
    torch.testing.assert_close(mean, without_bias.mean(1))
    torch.testing.assert_close(variance, without_bias.var(1, correction=0))
    assert math.prod(mean.shape) == geometry.out_channels
