"""Operations without weights as affine operations: padding, parts, averages."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from ..graph.channel_affine import ChannelAffine
from ..graph.nodes import AVERAGES, AveragePool, describe, owner_of, shape_of
from .affine_conv import AffineConv
from .geometry import Geometry, Pads, per_axis
from .refusals import Refusal


@dataclass(frozen=True)
class AffineOp:
    """An affine operation on the value ``input``.

    ``weighted``: a convolution or linear layer, what depth counts. ``biased``: may add a constant, so that a zero
    border does not stay zero. ``weights`` computes `(weight, bias)` in float64, only when it is asked.
    """

    input: fx.Node
    geometry: Geometry
    weights: Callable[[], tuple[Tensor, Tensor]]
    weighted: bool = field(default=False, kw_only=True)
    biased: bool = field(default=False, kw_only=True)

    def affine(self) -> AffineConv:
        return AffineConv(self.geometry, *self.weights())


def not_linear(node: fx.Node) -> Refusal:
    """The refusal of an operation that the algebra does not know."""
    return Refusal("not-linear", f"{describe(node)} is not linear")


def channel_affine(x: fx.Node, module: ChannelAffine) -> AffineOp:
    """`scale x + shift` with one number of each per channel, which stands in place of a removed activation."""
    axes = len(shape_of(x)) - 2 if module.axis == 1 else 0

    def weights() -> tuple[Tensor, Tensor]:
        return diagonal(module.scale.detach().double(), axes), module.shift.detach().double()

    return AffineOp(x, Geometry.identity(len(module.scale), axes), weights, biased=True)


def pad(x: fx.Node, amounts: list[int], value: float | None, node: fx.Node) -> AffineOp | Refusal:
    """Zero padding of spatial axes and of channels, and cropping (negative amounts), as a 1x1 convolution."""
    shape = shape_of(x)
    axes = len(shape) - 2
    if value:
        return Refusal("not-linear", f"{describe(node)} pads with {value}, not with zero")
    amounts = [*amounts, *[0] * (2 * (axes + 1) - len(amounts))]
    if len(amounts) > 2 * (axes + 1):
        return Refusal("not-linear", f"{describe(node)} pads the batch")
    # torch lists the last axis first
    *spatial, (before, after) = [(amounts[2 * i], amounts[2 * i + 1]) for i in range(axes + 1)]
    padding = tuple(reversed(spatial))
    if before == after == 0:
        return identity(x, node, padding=padding)

    def weights() -> tuple[Tensor, Tensor]:
        rows = F.pad(torch.eye(shape[1], dtype=torch.float64, device=any_parameter(node).device), (0, 0, before, after))
        return rows.reshape(*rows.shape, *(1,) * axes), rows.new_zeros(rows.shape[0])

    geometry = Geometry.pointwise(shape[1], shape[1] + before + after, axes)
    return AffineOp(x, replace(geometry, padding=padding), weights)


def average(x: fx.Node, pool: AveragePool, node: fx.Node) -> AffineOp | Refusal:
    """Average pooling as a depthwise convolution whose taps are all the same."""
    shape = shape_of(x)
    axes = len(shape) - 2
    if not 1 <= axes <= 3 or type(pool) is not AVERAGES[axes - 1]:
        return Refusal("not-linear", f"{describe(node)} runs on a tensor without a batch axis")
    kernel, stride, padding = (per_axis(value, axes) for value in (pool.kernel_size, pool.stride, pool.padding))
    floor = tuple((n + 2 * p - k) // s + 1 for n, k, s, p in zip(shape[2:], kernel, stride, padding, strict=True))
    if shape_of(node)[2:] != floor or (any(padding) and not pool.count_include_pad):
        return Refusal("border", f"{describe(node)} averages over fewer pixels at the borders")
    divisor = getattr(pool, "divisor_override", None) or math.prod(kernel)

    def weights() -> tuple[Tensor, Tensor]:
        taps = torch.full((shape[1], 1, *kernel), 1 / divisor, dtype=torch.float64, device=any_parameter(node).device)
        return taps, taps.new_zeros(shape[1])

    geometry = Geometry.identity(shape[1], axes)
    geometry = replace(geometry, kernel=kernel, stride=stride, padding=tuple((p, p) for p in padding))
    return AffineOp(x, geometry, weights)


def part(x: fx.Node, node: fx.Node) -> AffineOp | Refusal:
    """`x[:, a:b]`: some of the channels; `x[:, :, ::2, ::2]`: the identity with a stride."""
    shape, index = shape_of(x), node.args[1]
    refusal = Refusal("not-linear", f"{describe(node)} takes a part of the tensor")
    indices = index if isinstance(index, tuple) else (index,)
    given = [i for i in indices if isinstance(i, slice) and _is_constant(i)]
    if len(given) != len(indices) or len(given) > len(shape):
        return refusal
    slices = [*given, *[slice(None)] * (len(shape) - len(given))]
    batch, chosen, *spatial = (range(n)[i] for n, i in zip(shape, slices, strict=True))
    from_start = all(part == range(n)[:: part.step] for part, n in zip(spatial, shape[2:], strict=True))
    strides = tuple(part.step for part in spatial)
    if batch != range(shape[0]) or not from_start:
        return refusal
    if chosen == range(shape[1]):
        return identity(x, node, stride=strides)
    return select(x, list(chosen), node) if all(step == 1 for step in strides) else refusal


def _is_constant(part: slice) -> bool:
    return all(end is None or isinstance(end, int) for end in (part.start, part.stop, part.step))


def identity(
    x: fx.Node, node: fx.Node, *, padding: Pads | None = None, stride: tuple[int, ...] | None = None
) -> AffineOp:
    """The identity on the channels, with another padding or stride."""
    axes, size = len(shape_of(x)) - 2, shape_of(x)[1]
    one = Geometry.identity(size, axes)

    def weights() -> tuple[Tensor, Tensor]:
        ones = torch.ones(size, dtype=torch.float64, device=any_parameter(node).device)
        return diagonal(ones, axes), torch.zeros_like(ones)

    return AffineOp(x, replace(one, padding=padding or one.padding, stride=stride or one.stride), weights)


def select(x: fx.Node, chosen: list[int], node: fx.Node) -> AffineOp:
    """The channels ``chosen``, in that order."""
    axes, size = len(shape_of(x)) - 2, shape_of(x)[1]

    def weights() -> tuple[Tensor, Tensor]:
        rows = torch.eye(size, dtype=torch.float64, device=any_parameter(node).device)[chosen]
        return rows.reshape(*rows.shape, *(1,) * axes), rows.new_zeros(len(chosen))

    return AffineOp(x, Geometry.pointwise(size, len(chosen), axes), weights)


def shuffled(size: int, groups: int) -> list[int]:
    """Which channel a channel shuffle puts at each place."""
    return torch.arange(size).unflatten(0, (groups, -1)).T.flatten().tolist()


def diagonal(scale: Tensor, axes: int) -> Tensor:
    """One factor per channel as the weight of a depthwise 1x1 convolution."""
    return scale.reshape(-1, 1, *(1,) * axes)


def any_parameter(node: fx.Node) -> Tensor:
    """A tensor on the device of the network."""
    return next(owner_of(node).parameters(), torch.empty(0))
