"""The weights of a merged layer, from the layers that it replaces."""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import replace

import torch
from torch import fx

from fold.affine import AffineConv, Geometry
from fold.border import bias_map
from fold.commute import axes_after
from fold.graph import channels, module_of
from fold.layers import affine_op, is_addition, is_concatenation, is_passthrough, operands
from fold.operations import AffineOp
from fold.regions import Region


def compose(region: Region) -> AffineConv:
    """``region`` as one convolution of its anchor, in float64; its geometry is that of the region."""
    like = module_of(region.layers[0]).weight.new_empty((), dtype=torch.float64)
    readers = Counter(x for node in region.nodes for x in operands(node))
    chains: dict[fx.Node, list[AffineConv | AffineOp]] = {region.anchor: []}
    for node in region.nodes:
        parts = [chains[x] for x in operands(node)]
        if is_addition(node) or is_concatenation(node):
            axes = next((part[0].geometry.axes for part in parts if part), len(node.meta["shape"]) - 2)
            one = AffineConv.identity(channels(region.anchor, axes), axes, like)
            join = AffineConv.plus if is_addition(node) else AffineConv.beside
            chains[node] = [functools.reduce(join, [_in_a_row(part or [one]) for part in parts])]
        elif is_passthrough(node) or node in region.removed:
            chains[node] = parts[0]
        elif node in region.before:
            pointwise = _in_a_row(parts[0])
            chains[node] = [pointwise.on(axes_after(node, pointwise.geometry.axes))]
        else:
            axes = parts[0][-1].geometry.axes if parts[0] else None
            chains[node] = [*parts[0], affine_op(node, axes)]
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
    layers[0] = _affine(layers[0])
    return layers[0]


def _affine(layer: AffineConv | AffineOp) -> AffineConv:
    return layer.affine() if isinstance(layer, AffineOp) else layer


def _work(first: Geometry, second: Geometry) -> int:
    """Multiply-accumulates of composing two layers."""
    return second.weights * first.weights // first.out_channels
