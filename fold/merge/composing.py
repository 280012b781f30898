"""The weights of a merged layer, from the layers that it replaces."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import fx

from ..algebra.affine_conv import AffineConv
from ..algebra.commuting import axes_after
from ..algebra.geometry import Geometry
from ..algebra.layers import affine_op, is_addition, is_concatenation, is_passthrough, operands
from ..algebra.operations import AffineOp, any_parameter
from ..graph.nodes import channels, is_activation, shape_of
from ..regions.borders import bias_map
from ..regions.finding import Region


def compose(region: Region, maps: Mapping[fx.Node, AffineConv] | None = None) -> AffineConv:
    """``region`` as one convolution of its anchor, in float64; its geometry is that of the region.

    ``maps`` gives what comes to stand in place of removed activations; the others are taken for the identity.
    """
    like = any_parameter(region.output).new_empty((), dtype=torch.float64)
    readers = Counter(x for node in region.nodes for x in operands(node))
    chains: dict[fx.Node, list[AffineConv | AffineOp]] = {region.anchor: []}
    for node in region.nodes:
        parts = [chains[x] for x in operands(node)]
        if is_addition(node) or is_concatenation(node):
            axes = next((part[0].geometry.axes for part in parts if part), len(shape_of(node)) - 2)
            one = AffineConv.identity(channels(region.anchor, axes), axes, like)
            join = AffineConv.plus if is_addition(node) else AffineConv.beside
            chains[node] = [functools.reduce(join, [_in_a_row(part or [one]) for part in parts])]
        elif maps and node in maps:
            chains[node] = [*parts[0], maps[node]]
        elif is_passthrough(node) or is_activation(node):
            chains[node] = parts[0]
        elif node in region.before:
            pointwise = _in_a_row(parts[0])
            after = axes_after(node, pointwise.geometry.axes)
            assert after is not None  # or the region would not have it there
            chains[node] = [pointwise.on(after)]
        else:
            op = affine_op(node, parts[0][-1].geometry.axes if parts[0] else None)
            assert isinstance(op, AffineOp)
            chains[node] = [*parts[0], op]
        if readers[node] > 1 and chains[node]:
            chains[node] = [_in_a_row(chains[node])]
    layers = chains[region.output]
    chains.clear()  # layers go from memory as they are merged
    value = _in_a_row(layers)
    return replace(value, bias=bias_map(region)) if region.mapped else value


def _in_a_row(layers: list[AffineConv | AffineOp]) -> AffineConv:
    """The one convolution that ``layers`` are together, merged in the order that costs least; shortens the list to it.

    A layer is converted to float64 when its turn comes.
    """
    while len(layers) > 1:
        i = min(range(len(layers) - 1), key=lambda i: _work(layers[i].geometry, layers[i + 1].geometry))
        layers[i : i + 2] = [_affine(layers[i]).then(_affine(layers[i + 1]))]
    value = _affine(layers[0])
    layers[:] = [value]
    return value


def _affine(layer: AffineConv | AffineOp) -> AffineConv:
    return layer.affine() if isinstance(layer, AffineOp) else layer


def _work(first: Geometry, second: Geometry) -> int:
    """Multiply-accumulates of composing two layers."""
    return second.weights * first.weights // first.out_channels
