"""Operations without weights as affine operations: arithmetic with constants, padding, parts, averages."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fold.affine import AffineConv, Geometry
from fold.graph import channels, describe, tensor_of

ADDITIONS = (operator.add, torch.add, "add")
ARITHMETIC: dict[object, str] = {
    **dict.fromkeys(ADDITIONS, "+"),
    **dict.fromkeys((operator.sub, torch.sub, torch.subtract, "sub"), "-"),
    **dict.fromkeys((operator.mul, torch.mul, torch.multiply, "mul"), "*"),
    **dict.fromkeys((operator.truediv, torch.div, torch.divide, torch.true_divide, "div"), "/"),
    **dict.fromkeys((operator.neg, torch.neg, torch.negative, "neg"), "negative"),
}


@dataclass(frozen=True)
class AffineOp:
    """An affine operation on the value ``input``.

    ``weighted``: a convolution or linear layer, what depth counts. ``biased``: may add a constant, so that a zero
    border does not stay zero. ``weights`` computes `(weight, bias)` in float64, only when it is asked.
    """

    input: fx.Node
    geometry: Geometry
    weights: Callable[[], tuple[Tensor, Tensor]]
    weighted: bool = False
    biased: bool = False

    def affine(self) -> AffineConv:
        return AffineConv(self.geometry, *self.weights())


def arithmetic(node: fx.Node, axes: int | None) -> AffineOp | str:
    """`c x + d` with constants that are numbers, or parameters with one number per channel."""
    kind, shape = ARITHMETIC[node.target], node.meta.get("shape")
    values = [x for x in node.args if isinstance(x, fx.Node) and x.op != "get_attr" and x.meta.get("shape") == shape]
    constants = [tensor_of(x) if isinstance(x, fx.Node) else x for x in node.args if x not in values]
    known = all(isinstance(c, (int, float, Tensor)) for c in constants) and not node.kwargs
    if shape is None or len(shape) < 2 or len(values) != 1 or not known or len(constants) != (kind != "negative"):
        return f"{describe(node)} is not linear"
    (x,), (constant,), first = values, constants or [-1.0], node.args[0] is values[0]
    if kind == "/" and not first:
        return f"{describe(node)} is not linear"
    if any(isinstance(c, fx.Node) and c.meta.get("shared") for c in node.args if c is not x):
        return f"{describe(node)} shares its weights with another call"
    extents = (1,) * len(shape) if isinstance(constant, (int, float)) else tuple(constant.shape)
    wide = [axis - len(extents) + len(shape) for axis, extent in enumerate(extents) if extent > 1]
    if wide and wide not in ([1], [len(shape) - 1]):
        return f"{describe(node)} has a constant that is not one number per channel"
    if wide or axes is None:
        axes = 0 if wide and wide != [1] else len(shape) - 2
    size = channels(node, axes)

    def weights() -> tuple[Tensor, Tensor]:
        like = constant if isinstance(constant, Tensor) else _any_parameter(node)
        value = torch.as_tensor(constant, dtype=torch.float64, device=like.device).flatten().expand(size)
        one, zero = torch.ones_like(value), torch.zeros_like(value)
        scale, shift = {
            "+": (one, value),
            "-": (one, -value) if first else (-one, value),
            "*": (value, zero),
            "/": (one / value, zero),
            "negative": (-one, zero),
        }[kind]
        return diagonal(scale, axes), shift

    return AffineOp(x, Geometry.identity(size, axes), weights, biased=kind in "+-")


def pad(x: fx.Node, amounts: list[int], value: float | None, node: fx.Node) -> AffineOp | str:
    """Zero padding of spatial axes and of channels, and cropping (negative amounts), as a 1x1 convolution."""
    shape = x.meta["shape"]
    axes = len(shape) - 2
    if value:
        return f"{describe(node)} pads with {value}, not with zero"
    amounts = [*amounts, *[0] * (2 * (axes + 1) - len(amounts))]
    if len(amounts) > 2 * (axes + 1):
        return f"{describe(node)} pads the batch"
    # torch lists the last axis first
    *spatial, (before, after) = [(amounts[2 * i], amounts[2 * i + 1]) for i in range(axes + 1)]
    padding = tuple(reversed(spatial))
    if before == after == 0:
        return identity(x, node, padding=padding)

    def weights() -> tuple[Tensor, Tensor]:
        rows = F.pad(
            torch.eye(shape[1], dtype=torch.float64, device=_any_parameter(node).device), (0, 0, before, after)
        )
        return rows.reshape(*rows.shape, *(1,) * axes), rows.new_zeros(rows.shape[0])

    geometry = Geometry.pointwise(shape[1], shape[1] + before + after, axes)
    return AffineOp(x, replace(geometry, padding=padding), weights)


def average(x: fx.Node, pool: nn.Module, node: fx.Node) -> AffineOp | str:
    """Average pooling as a depthwise convolution whose taps are all the same."""
    shape = x.meta["shape"]
    axes = len(shape) - 2
    if {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}.get(axes) is not type(pool):
        return f"{describe(node)} runs on a tensor without a batch axis"
    kernel, stride, padding = (
        value if isinstance(value, tuple) else (value,) * axes
        for value in (pool.kernel_size, pool.stride, pool.padding)
    )
    floor = tuple((n + 2 * p - k) // s + 1 for n, k, s, p in zip(shape[2:], kernel, stride, padding, strict=True))
    if node.meta["shape"][2:] != floor or (any(padding) and not pool.count_include_pad):
        return f"{describe(node)} averages over fewer pixels at the borders"
    divisor = getattr(pool, "divisor_override", None) or math.prod(kernel)

    def weights() -> tuple[Tensor, Tensor]:
        taps = torch.full((shape[1], 1, *kernel), 1 / divisor, dtype=torch.float64, device=_any_parameter(node).device)
        return taps, taps.new_zeros(shape[1])

    geometry = Geometry.identity(shape[1], axes)
    geometry = replace(geometry, kernel=kernel, stride=stride, padding=tuple((p, p) for p in padding))
    return AffineOp(x, geometry, weights)


def part(x: fx.Node, node: fx.Node) -> AffineOp | str:
    """`x[:, a:b]`: some of the channels; `x[:, :, ::2, ::2]`: the identity with a stride."""
    shape, index = x.meta["shape"], node.args[1]
    index = index if isinstance(index, tuple) else (index,)
    refusal = f"{describe(node)} takes a part of the tensor"
    if len(index) > len(shape) or not all(isinstance(i, slice) and _is_constant(i) for i in index):
        return refusal
    index = (*index, *[slice(None)] * (len(shape) - len(index)))
    batch, chosen, *spatial = (range(n)[i] for n, i in zip(shape, index, strict=True))
    from_start = all(part == range(n)[:: part.step] for part, n in zip(spatial, shape[2:], strict=True))
    strides = tuple(part.step for part in spatial)
    if batch != range(shape[0]) or not from_start:
        return refusal
    if chosen == range(shape[1]):
        return identity(x, node, stride=strides)
    return select(x, list(chosen), node) if all(step == 1 for step in strides) else refusal


def _is_constant(part: slice) -> bool:
    return all(end is None or isinstance(end, int) for end in (part.start, part.stop, part.step))


def identity(x: fx.Node, node: fx.Node, **changes: tuple) -> AffineOp:
    """The identity on the channels, with another padding or stride."""
    axes, size = len(x.meta["shape"]) - 2, x.meta["shape"][1]

    def weights() -> tuple[Tensor, Tensor]:
        ones = torch.ones(size, dtype=torch.float64, device=_any_parameter(node).device)
        return diagonal(ones, axes), torch.zeros_like(ones)

    return AffineOp(x, replace(Geometry.identity(size, axes), **changes), weights)


def select(x: fx.Node, chosen: list[int], node: fx.Node) -> AffineOp:
    """The channels ``chosen``, in that order."""
    axes, size = len(x.meta["shape"]) - 2, x.meta["shape"][1]

    def weights() -> tuple[Tensor, Tensor]:
        rows = torch.eye(size, dtype=torch.float64, device=_any_parameter(node).device)[chosen]
        return rows.reshape(*rows.shape, *(1,) * axes), rows.new_zeros(len(chosen))

    return AffineOp(x, Geometry.pointwise(size, len(chosen), axes), weights)


def shuffled(size: int, groups: int) -> list[int]:
    """Which channel a channel shuffle puts at each place."""
    return torch.arange(size).unflatten(0, (groups, -1)).T.flatten().tolist()


def diagonal(scale: Tensor, axes: int) -> Tensor:
    """One factor per channel as the weight of a depthwise 1x1 convolution."""
    return scale.reshape(-1, 1, *(1,) * axes)


def _any_parameter(node: fx.Node) -> Tensor:
    """A tensor on the device of the network."""
    return next(node.graph.owning_module.parameters(), torch.empty(0))
