"""Hoist a region's padding to its first layer, so that merging it is exact up to the borders.

`conv2(pad(conv1(pad(x))))` zeroes the border of `conv1`'s output; no single convolution does that once a bias is in
between. `conv2(conv1(pad(x)))`, with all padding in front (`p1 + s1 p2`), is one convolution exactly. The two differ
at the borders: hoisting changes the network there, so measure right after it and fine-tune.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, fx, nn

from ..algebra.geometry import Pads, per_axis
from ..algebra.layers import CONSTANT_PADS, CONVOLUTIONS, affine_op, conv_padding, layer_of, operands
from ..algebra.operations import AffineOp
from ..graph.canonical import SamePad2d
from ..graph.nodes import AVERAGES, add_module, add_shapes, module_of, options_of, shape_of, target_of
from ..graph.tracing import trace
from .finding import Region, hoisted_regions


@dataclass(frozen=True)
class Hoisted:
    """A region whose padding moved: its convolutions, and the padding of each before and after.

    Padding is (before, after) per axis, in input pixels; where the two differ, a module in front of the layer pads.
    """

    layers: tuple[str, ...]
    before: tuple[Pads, ...]
    after: tuple[Pads, ...]


def hoist_padding(
    model: nn.Module, example: Tensor, *, average_pooling: bool = False
) -> tuple[fx.GraphModule, list[Hoisted]]:
    """A copy of ``model`` in which `fold` can merge every region exactly, and the regions whose padding was moved.

    Only regions that would be merged are changed. A shorter branch that joins (an inner skip) is cropped to match. An
    anchor that joins at a larger size is padded with zeros.

    Args:
        model: a network whose unwanted activations have been removed; it is not modified.
        example: one input batch `[batch, in, *spatial]`; only its shape, dtype and device matter.
        average_pooling: take average poolings for convolutions, here and when the result is folded.

    Raises:
        InputError: the network cannot be traced or does not accept ``example``.

    Example:
        >>> import torch, layer_folding as lf
        >>> model = torch.nn.Sequential(*(torch.nn.Conv2d(3, 3, 3, padding=1) for _ in range(2))).eval()
        >>> ready, hoisted = lf.hoist_padding(model, torch.rand(1, 3, 16, 16))
        >>> [region.layers for region in hoisted]
        [('0', '1')]
    """
    traced = trace(model, example, average_pooling=average_pooling)
    hoisted = []
    for region in hoisted_regions(traced).found:
        layers = {node: layer_of(node) for node in region.layers}
        before = {node: conv_padding(layer) for node, layer in layers.items() if isinstance(layer, CONVOLUTIONS)}
        moved = _hoist(traced, region)
        if moved:
            after = tuple(moved.get(node, pads) for node, pads in before.items())
            hoisted.append(Hoisted(tuple(map(target_of, before)), tuple(before.values()), after))
    traced.graph.lint()
    traced.recompile()
    add_shapes(traced, example)
    return traced, hoisted


def _hoist(traced: fx.GraphModule, region: Region) -> dict[fx.Node, Pads]:
    """Make every value of the region as much larger as its readers' padding needs; the padding that is new, by node."""
    if region.before or region.geometry.transposed:
        return {}  # such a region was exact as it stood, or it would not be one
    none: Pads = ((0, 0),) * region.geometry.axes
    inside = set(region.nodes)
    margin: dict[fx.Node, Pads] = {region.output: none}  # extra pixels before and after that a value has to give
    needs: dict[tuple[fx.Node, fx.Node], Pads] = {}
    for node in reversed(region.nodes):
        extra = margin[node]
        op = affine_op(node, region.geometry.axes)
        for x in operands(node):
            needs[node, x] = extra if not isinstance(op, AffineOp) else tuple(
                (lo + s * before, hi + s * after)
                for (lo, hi), s, (before, after) in zip(op.geometry.padding, op.geometry.stride, extra, strict=True)
            )  # fmt: skip
            if x in inside:
                margin[x] = _larger(margin.get(x, none), needs[node, x])
    moved = {}
    for (node, x), need in needs.items():
        given = margin[x] if x in inside else none
        pads = tuple((n[0] - g[0], n[1] - g[1]) for n, g in zip(need, given, strict=True))
        if _set_padding(traced, node, x, pads):
            moved[node] = pads
    return moved


def _larger(a: Pads, b: Pads) -> Pads:
    return tuple((max(x[0], y[0]), max(x[1], y[1])) for x, y in zip(a, b, strict=True))


def _set_padding(traced: fx.GraphModule, node: fx.Node, x: fx.Node, pads: Pads) -> bool:
    """Let ``node`` read ``x`` with ``pads`` (negative: cropped) in place of its own padding; whether that is new."""
    module = module_of(node)
    if pads == _padding_of(node, x, len(pads)):
        return False
    if isinstance(module, CONVOLUTIONS) and all(lo == hi >= 0 for lo, hi in pads):
        module.padding = tuple(lo for lo, _ in pads)
    elif isinstance(module, (*CONVOLUTIONS, *AVERAGES)):
        module.padding = (0,) * len(pads) if isinstance(module, CONVOLUTIONS) else 0
        if any(lo or hi for lo, hi in pads):
            _insert_pad(traced, node, x, pads)
    elif isinstance(module, (*CONSTANT_PADS, SamePad2d)):
        traced.set_submodule(target_of(node), pad_module(pads).train(module.training))
    elif node.target is F.pad:
        node.args, node.kwargs = (x, _last_axis_first(pads) + _amounts(node)[2 * len(pads) :]), {}
    else:
        _insert_pad(traced, node, x, pads)
    return True


def _padding_of(node: fx.Node, x: fx.Node, axes: int) -> Pads:
    """(before, after) per axis by which ``node`` pads ``x`` itself."""
    module = module_of(node)
    if isinstance(module, CONVOLUTIONS):
        return conv_padding(module)
    if isinstance(module, AVERAGES):
        return tuple((p, p) for p in per_axis(module.padding, axes))
    if isinstance(module, SamePad2d):
        return module.amounts(shape_of(x)[2:])
    if isinstance(module, CONSTANT_PADS) or node.target is F.pad:
        amounts = (*_amounts(node), *[0] * 2 * axes)
        return tuple((amounts[2 * i], amounts[2 * i + 1]) for i in reversed(range(axes)))
    return ((0, 0),) * axes


def _amounts(node: fx.Node) -> tuple[int, ...]:
    """How much a constant padding pads, the last axis first."""
    module = module_of(node)
    return tuple(module.padding if isinstance(module, CONSTANT_PADS) else options_of(node, "pad")["pad"])


def _insert_pad(traced: fx.GraphModule, node: fx.Node, x: fx.Node, pads: Pads) -> None:
    name = add_module(traced, f"{target_of(node) if node.op == 'call_module' else node.name}_pad", pad_module(pads))
    with traced.graph.inserting_before(node):
        padded = traced.graph.call_module(name, (x,))
    node.replace_input_with(x, padded)


def pad_module(pads: Pads) -> nn.Module:
    """A module that zero-pads (negative: crops) by (before, after) per axis."""
    kinds: tuple[Callable[..., nn.Module], ...] = (nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d)
    return kinds[len(pads) - 1](_last_axis_first(pads))


def _last_axis_first(pads: Pads) -> tuple[int, ...]:
    return tuple(amount for lo_hi in reversed(pads) for amount in lo_hi)
