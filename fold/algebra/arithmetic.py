"""Arithmetic with constants as affine operations: `c x + d`, with numbers or with one number per channel."""

from __future__ import annotations

import operator

import torch
from torch import Tensor, fx

from ..graph.nodes import channels, describe, is_shared, known_shape, shape_of, tensor_of
from .geometry import Geometry
from .operations import AffineOp, any_parameter, diagonal, not_linear
from .refusals import Refusal

ADDITIONS = (operator.add, torch.add, "add")
_NEGATIONS = (operator.neg, torch.neg, torch.negative, "neg")
_SIGNS: dict[object, str] = {
    **dict.fromkeys(ADDITIONS, "+"),
    **dict.fromkeys((operator.sub, torch.sub, torch.subtract, "sub"), "-"),
    **dict.fromkeys((operator.mul, torch.mul, torch.multiply, "mul"), "*"),
    **dict.fromkeys((operator.truediv, torch.div, torch.divide, torch.true_divide, "div"), "/"),
}


def is_arithmetic(node: fx.Node) -> bool:
    """Whether ``node`` adds, subtracts, multiplies, divides or negates, whatever its operands are."""
    known = node.target in _SIGNS or node.target in _NEGATIONS
    return known and node.op in ("call_function", "call_method")


def arithmetic(node: fx.Node, axes: int | None) -> AffineOp | Refusal:
    """The arithmetic of ``node`` as an affine operation on its one operand that is not a constant.

    ``axes`` are the spatial axes of that operand (0: channels last), None where they are not known yet.
    """
    found = _operands(node)
    if found is None:
        return not_linear(node)
    x, sign, constant = found
    if any(isinstance(c, fx.Node) and is_shared(c) for c in node.args if c is not x):
        return Refusal("shared-weights", f"{describe(node)} shares its weights with another call")
    wide = _wide_axes(constant, len(shape_of(node)))
    if wide and wide not in ([1], [len(shape_of(node)) - 1]):
        return Refusal("not-linear", f"{describe(node)} has a constant that is not one number per channel")
    if wide or axes is None:
        axes = 0 if wide and wide != [1] else len(shape_of(node)) - 2
    size, spatial, first = channels(node, axes), axes, node.args[0] is x

    def weights() -> tuple[Tensor, Tensor]:
        like = constant if isinstance(constant, Tensor) else any_parameter(node)
        value = torch.as_tensor(constant, dtype=torch.float64, device=like.device).flatten().expand(size)
        scale, shift = _scale_and_shift(sign, value, value_first=first)
        return diagonal(scale, spatial), shift

    return AffineOp(x, Geometry.identity(size, axes), weights, biased=sign in "+-")


def _operands(node: fx.Node) -> tuple[fx.Node, str, float | Tensor] | None:
    """The value that ``node`` works on, the sign between that and the constant, and the constant.

    None where it does not work on one value and one constant, or divides by the value.
    """
    shape = known_shape(node)
    if shape is None or len(shape) < 2 or node.kwargs:
        return None
    values = [x for x in node.args if isinstance(x, fx.Node) and x.op != "get_attr" and known_shape(x) == shape]
    others = [x for x in node.args if x not in values]
    if len(values) != 1:
        return None
    if node.target in _NEGATIONS:
        return None if others else (values[0], "*", -1.0)
    if len(others) != 1:
        return None
    constant = tensor_of(others[0]) if isinstance(others[0], fx.Node) else others[0]
    sign = _SIGNS[node.target]
    if not isinstance(constant, (int, float, Tensor)) or (sign == "/" and node.args[0] is not values[0]):
        return None
    return values[0], sign, constant


def _wide_axes(constant: float | Tensor, rank: int) -> list[int]:
    """The axes of a tensor of ``rank`` axes along which ``constant`` has more than one number."""
    extents = constant.shape if isinstance(constant, Tensor) else ()
    return [axis - len(extents) + rank for axis, extent in enumerate(extents) if extent > 1]


def _scale_and_shift(sign: str, constant: Tensor, *, value_first: bool) -> tuple[Tensor, Tensor]:
    """`scale x + shift` for `x + constant` and so on; where the value is not first, for `constant - x`."""
    one, zero = torch.ones_like(constant), torch.zeros_like(constant)
    return {
        "+": (one, constant),
        "-": (one, -constant) if value_first else (-one, constant),
        "*": (constant, zero),
        "/": (one / constant, zero),
    }[sign]
