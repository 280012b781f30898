"""Where a network is linear: its maximal affine regions, and the reason for every layer that is in none.

One walk over the graph carries each value as the geometry of one convolution of its *anchor*, the last value before
it that is not affine. A region is an anchor, a later value that must exist because something else reads it, and the
nodes between. Merging it replaces its layers by one.

Exactness at the borders: a layer that pads may follow another only where the padded zeros are what the earlier layer
would have given there. With a bias in between they never are, so the padding has to be hoisted to the region's first
layer (`fold.padding`); otherwise the region is cut before the padding layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace

from torch import fx, nn

from fold.affine import Geometry
from fold.layers import AffineOp, affine_op, describe, is_addition, is_passthrough, is_weighted, spatial_size
from fold.trace import is_activation, module_of


@dataclass(frozen=True)
class Region:
    """An affine part of a graph that one layer can replace: ``output`` as a convolution of ``anchor``."""

    anchor: fx.Node
    output: fx.Node
    nodes: tuple[fx.Node, ...]  # in graph order, ``output`` included, ``anchor`` not
    geometry: Geometry  # of the merged layer
    removed: tuple[fx.Node, ...]  # activations inside that are gone, or would have to go

    @property
    def layers(self) -> tuple[fx.Node, ...]:
        """The weighted layers that are merged."""
        return tuple(node for node in self.nodes if is_weighted(node))

    @property
    def macs(self) -> tuple[int, int]:
        """Multiply-accumulates per image before and after merging."""
        return sum(layer_macs(node) for node in self.layers), self.geometry.macs(spatial_size(self.output))

    @property
    def parameters(self) -> tuple[int, int]:
        """Weights and biases before and after merging; BatchNorm, which disappears, counts before."""
        before = sum(p.numel() for node in self.nodes if module_of(node) for p in module_of(node).parameters())
        return before, self.geometry.parameters


@dataclass(frozen=True)
class Skipped:
    """A weighted layer, by its path, that was not merged with what comes before it, and why."""

    layer: str
    reason: str


@dataclass(frozen=True)
class _Value:
    anchor: fx.Node
    geometry: Geometry | None  # None: the anchor itself, as many axes as its reader wants
    nodes: frozenset[fx.Node] = frozenset()
    biased: bool = False
    # a removed activation since the last weighted layer: merging the next one is what its removal was for
    opened: bool = False
    weighted: bool = False


@dataclass
class _Walk:
    values: dict[fx.Node, _Value] = field(default_factory=dict)
    why_anchor: dict[fx.Node, str] = field(default_factory=dict)
    demanded: dict[fx.Node, str] = field(default_factory=dict)  # cuts that this walk found to be necessary


def layer_macs(node: fx.Node) -> int:
    """Multiply-accumulates per image of a weighted layer in the graph."""
    module, shape = module_of(node), node.meta["shape"]
    if isinstance(module, nn.Linear):
        return module.weight.numel() * math.prod(shape[1:-1])
    # a transposed convolution scatters from its inputs: its work is per input pixel
    at = node.args[0].meta["shape"] if module.transposed else shape
    return module.weight.numel() * math.prod(at[2:])


def find_regions(
    traced: fx.GraphModule, removed: Collection[fx.Node] = (), any_padding: bool = False
) -> tuple[list[Region], list[Skipped]]:
    """The regions that can be merged, and the weighted layers that stay apart with the reason.

    Args:
        traced: from `fold.trace.trace`.
        removed: activation nodes to be treated as if they were gone.
        any_padding: also return regions that are exact only after their padding has been hoisted.

    A region is merged across every activation that was removed in it. Where two layers were adjacent from the start,
    a region in which nothing was removed is merged unless that would undo a bottleneck; in a region with removals
    they stay apart unless merging needs no more multiply-accumulates: nobody asked for that merge.
    """
    removed = frozenset(removed)
    free = _settle(traced, removed, True, lambda node, before, op, merged: None)
    asked = {n for region in _collect(traced, removed, free)[0] if region.removed for n in region.nodes}

    def policy(node: fx.Node, before: _Value, op: AffineOp, merged: Geometry) -> str | None:
        if before.opened:
            return None
        source = describe(op.input)
        if node in asked:
            apart = before.geometry.macs(spatial_size(op.input)) + op.geometry.macs(spatial_size(node))
            growth = merged.macs(spatial_size(node)) / apart
            if growth > 1:
                return f"no activation was removed after {source}, and merging would cost {growth:.1f}x the MACs"
        elif op.geometry.in_channels < min(before.geometry.in_channels, op.geometry.out_channels):
            return f"the {op.geometry.in_channels} channels of {source} are a bottleneck that merging would undo"
        return None

    hoisted = _collect(traced, removed, _settle(traced, removed, True, policy))
    if any_padding:
        return hoisted
    regions, skipped = _collect(traced, removed, _settle(traced, removed, False, policy))
    # hoisting is no remedy for a layer that would stay apart even then
    reasons = {entry.layer: entry.reason for entry in hoisted[1]}
    return regions, [replace(entry, reason=reasons.get(entry.layer, entry.reason)) for entry in skipped]


def foldable_activations(traced: fx.GraphModule) -> list[fx.Node]:
    """The activations whose removal, everything else kept, lets weighted layers merge (padding hoisted)."""
    kept = _weighted_layers_merged(traced, ())
    return [
        node for node in traced.graph.nodes if is_activation(node) and _weighted_layers_merged(traced, (node,)) > kept
    ]


def _weighted_layers_merged(traced: fx.GraphModule, removed: tuple[fx.Node, ...]) -> int:
    return sum(len(region.layers) - 1 for region in find_regions(traced, removed, any_padding=True)[0])


Policy = Callable[[fx.Node, _Value, AffineOp, Geometry], "str | None"]


def _settle(traced: fx.GraphModule, removed: frozenset[fx.Node], any_padding: bool, policy: Policy) -> _Walk:
    """Walk until no new cut is needed. Cuts only ever grow, so this ends."""
    cuts: dict[fx.Node, str] = {}
    while True:
        walk = _walk(traced, removed, any_padding, policy, cuts)
        demanded = walk.demanded or _computed_twice(traced, walk, cuts)
        if not demanded:
            return walk
        cuts |= demanded


def _walk(
    traced: fx.GraphModule, removed: frozenset[fx.Node], any_padding: bool, policy: Policy, cuts: dict[fx.Node, str]
) -> _Walk:
    walk = _Walk(why_anchor=dict(cuts))

    def read(node: fx.Node) -> _Value:
        """A node as its readers see it."""
        return _Value(node, None) if node in cuts else walk.values[node]

    def anchor(node: fx.Node, reason: str) -> _Value:
        walk.why_anchor[node] = reason
        return _Value(node, None)

    for node in traced.graph.nodes:
        if node in removed or is_passthrough(node):
            before = read(node.args[0])
            opened = before.opened or node in removed or hasattr(module_of(node), "removed")
            walk.values[node] = replace(before, nodes=before.nodes | {node}, opened=opened)
        elif is_addition(node):
            walk.values[node] = _sum(node, [read(x) for x in node.args], anchor)
        else:
            op = affine_op(node)
            if isinstance(op, str):
                walk.values[node] = anchor(node, op)
                continue
            before = _with_axes(read(op.input), op)
            cut = _refusal(node, before, op, any_padding, policy)
            if cut:
                walk.demanded[op.input] = cut
                before = _with_axes(_Value(op.input, None), op)
            walk.values[node] = _Value(
                before.anchor,
                before.geometry.then(op.geometry),
                before.nodes | {node},
                before.biased or op.biased,
                before.opened and not op.weighted,
                before.weighted or op.weighted,
            )
    return walk


def _with_axes(value: _Value, op: AffineOp) -> _Value:
    if value.geometry is None:
        return replace(value, geometry=Geometry.identity(op.geometry.in_channels, op.geometry.axes))
    return value


def _refusal(node: fx.Node, before: _Value, op: AffineOp, any_padding: bool, policy: Policy) -> str | None:
    """Why ``op`` cannot be merged with the value that it reads; None where it can."""
    if before.geometry.axes != op.geometry.axes:
        return f"{describe(node)} reads {describe(op.input)} with another number of axes"
    if not _border_exact(before, op):
        # without a weighted layer before it there is nothing to merge, so nothing to hoist for
        if not before.weighted:
            return f"{describe(node)} pads the output of {describe(op.input)}"
        if not any_padding:
            return f"{describe(node)} pads inside the region, so merging is wrong at the borders; hoist_padding first"
    if op.weighted and before.weighted:
        return policy(node, before, op, before.geometry.then(op.geometry))
    return None


def _border_exact(before: _Value, op: AffineOp) -> bool:
    """Whether the zeros that ``op`` pads are what the value before it would be there."""
    if before.anchor is op.input:
        return True
    for axis, (lo, hi) in enumerate(op.geometry.padding):
        if lo <= 0 and hi <= 0:
            continue
        if before.biased:
            return False
        g = before.geometry
        reads_before = -g.stride[axis] - g.padding[axis][0] + g.span[axis] - 1  # last pixel that output -1 would read
        reads_after = spatial_size(op.input)[axis] * g.stride[axis] - g.padding[axis][0]  # first that the next would
        if (lo > 0 and reads_before >= 0) or (hi > 0 and reads_after < spatial_size(before.anchor)[axis]):
            return False
    return True


def _sum(node: fx.Node, parts: list[_Value], anchor: Callable[[fx.Node, str], _Value]) -> _Value:
    first, second = parts
    if first.anchor is not second.anchor:
        names = " and ".join(describe(part.anchor) for part in parts)
        return anchor(node, f"{describe(node)} adds values of two anchors, {names}")
    shape = node.meta["shape"]
    one = Geometry.identity(shape[1], len(shape) - 2)
    first, second = (replace(p, geometry=p.geometry or one) for p in parts)
    try:
        geometry = first.geometry.plus(second.geometry)
    except ValueError:
        return anchor(node, f"{describe(node)} adds values of {describe(first.anchor)} at different strides")
    return _Value(
        first.anchor,
        geometry,
        first.nodes | second.nodes | {node},
        first.biased or second.biased,
        first.opened or second.opened,
        first.weighted or second.weighted,
    )


def _absorbs(walk: _Walk, cuts: Collection[fx.Node], node: fx.Node, user: fx.Node) -> bool:
    return node not in cuts and user in walk.values and node in walk.values[user].nodes


def _computed_twice(traced: fx.GraphModule, walk: _Walk, cuts: dict[fx.Node, str]) -> dict[fx.Node, str]:
    """Values that would be computed in more than one merged layer, at the point where their readers part."""
    targets: dict[fx.Node, frozenset[fx.Node]] = {}
    parting = {}
    for node in reversed(traced.graph.nodes):
        value = walk.values[node]
        readers = [user for user in node.users if _absorbs(walk, cuts, node, user)]
        own = frozenset({node}) if len(readers) < len(node.users) or not node.users else frozenset()
        reached = own.union(*(targets[user] for user in readers))
        targets[node] = reached
        carried_on = any(targets[user] == reached for user in readers)
        if value.anchor is not node and len(reached) > 1 and not carried_on:
            parting[node] = f"{describe(node)} is read in several places, and is computed once"
    return parting


def _collect(traced: fx.GraphModule, removed: frozenset[fx.Node], walk: _Walk) -> tuple[list[Region], list[Skipped]]:
    order = {node: i for i, node in enumerate(traced.graph.nodes)}
    regions, merged = [], set()
    for node in traced.graph.nodes:
        value = walk.values[node]
        materialised = node in walk.why_anchor or not all(_absorbs(walk, walk.why_anchor, node, u) for u in node.users)
        if value.anchor is node or not materialised:
            continue
        nodes = tuple(sorted(value.nodes, key=order.__getitem__))
        gone = tuple(n for n in nodes if n in removed or hasattr(module_of(n), "removed"))
        region = Region(value.anchor, node, nodes, value.geometry, gone)
        if len(region.layers) > 1:
            regions.append(region)
            merged |= set(region.layers)
    skipped = []
    for node in traced.graph.nodes:
        if is_weighted(node) and node not in merged:
            start = walk.values[node].anchor
            op = affine_op(node)
            if isinstance(op, str):
                skipped.append(Skipped(node.target, op))
            elif start.op != "placeholder":
                reason = walk.why_anchor.get(start, f"{describe(start)} is not linear")
                if is_activation(start):
                    reason = f"the activation {describe(start)} comes before it"
                skipped.append(Skipped(node.target, reason))
    return regions, skipped
