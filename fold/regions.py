"""Where a network is linear: its maximal affine regions, and the reason for every layer that is in none.

A region is an anchor, a later value that must exist because something else reads it, and the nodes between, which are
all affine (`fold.walk`). Merging it replaces its layers by one.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace

from torch import fx, nn

from fold.affine import Geometry
from fold.graph import describe, is_activation, module_of, positions
from fold.layers import is_weighted
from fold.operations import AffineOp
from fold.walk import Step, Value, Walk, is_materialised, read_steps, settle


@dataclass(frozen=True)
class Region:
    """An affine part of a graph that one layer can replace: ``output`` as a convolution of ``anchor``."""

    anchor: fx.Node
    output: fx.Node
    nodes: tuple[fx.Node, ...]  # in graph order, ``output`` included, ``anchor`` not
    geometry: Geometry  # of the merged layer
    removed: tuple[fx.Node, ...]  # activations inside that are gone, or would have to go
    before: tuple[fx.Node, ...] = ()  # those of ``nodes`` that come to stand before the merged layer (`fold.commute`)
    mapped: bool = False  # the bias differs by pixel, at the borders

    @property
    def layers(self) -> tuple[fx.Node, ...]:
        """The weighted layers that are merged."""
        return tuple(node for node in self.nodes if is_weighted(node))

    @property
    def macs(self) -> tuple[int, int]:
        """Multiply-accumulates per image before and after merging."""
        return sum(layer_macs(node) for node in self.layers), self.geometry.macs(
            positions(self.output, self.geometry.axes)
        )

    @property
    def parameters(self) -> tuple[int, int]:
        """Weights and biases before and after merging; BatchNorm, which disappears, counts before."""
        before = sum(p.numel() for node in self.nodes if module_of(node) for p in module_of(node).parameters())
        pixels = math.prod(positions(self.output, self.geometry.axes)) if self.mapped else 1
        return before, self.geometry.parameters + self.geometry.out_channels * (pixels - 1)


@dataclass(frozen=True)
class Skipped:
    """A weighted layer, by its path, that was not merged with what comes before it, and why."""

    layer: str
    reason: str


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
    return _find(read_steps(traced), frozenset(removed), any_padding)


def _find(steps: list[Step], removed: frozenset[fx.Node], any_padding: bool) -> tuple[list[Region], list[Skipped]]:
    free = settle(steps, removed, True, lambda node, before, op, merged: None)
    asked = {n for region in _collect(steps, removed, free)[0] if region.removed for n in region.nodes}

    def policy(node: fx.Node, before: Value, op: AffineOp, merged: Geometry) -> str | None:
        if before.opened:
            return None
        source = describe(op.input)
        if node in asked:
            axes = merged.axes
            apart = before.geometry.macs(positions(op.input, axes)) + op.geometry.macs(positions(node, axes))
            growth = merged.macs(positions(node, axes)) / apart
            if growth > 1:
                return f"no activation was removed after {source}, and merging would cost {growth:.1f}x the MACs"
        elif op.geometry.in_channels < min(before.geometry.in_channels, op.geometry.out_channels):
            return f"the {op.geometry.in_channels} channels of {source} are a bottleneck that merging would undo"
        return None

    hoisted = _collect(steps, removed, settle(steps, removed, True, policy))
    if any_padding:
        return hoisted
    regions, skipped = _collect(steps, removed, settle(steps, removed, False, policy))
    # hoisting is no remedy for a layer that would stay apart even then
    reasons = {entry.layer: entry.reason for entry in hoisted[1]}
    return regions, [replace(entry, reason=reasons.get(entry.layer, entry.reason)) for entry in skipped]


def foldable_activations(traced: fx.GraphModule) -> list[fx.Node]:
    """The activations whose removal, everything else kept, lets weighted layers merge (padding hoisted).

    Those of branches that meet in a sum or a concatenation count together: none of them is of use alone.
    """
    steps = read_steps(traced)

    def merged(removed: Collection[fx.Node]) -> int:
        return sum(len(region.layers) - 1 for region in _find(steps, frozenset(removed), any_padding=True)[0])

    activations = [step.node for step in steps if is_activation(step.node)]
    meeting = [[x for x in step.inputs if x in activations] for step in steps if step.join is not None]
    groups = [*([node] for node in activations), *(group for group in meeting if len(group) > 1)]
    kept = merged(())
    foldable = {node for group in groups if merged(group) > kept for node in group}
    return [node for node in activations if node in foldable]


def _collect(steps: list[Step], removed: frozenset[fx.Node], walk: Walk) -> tuple[list[Region], list[Skipped]]:
    order = {step.node: i for i, step in enumerate(steps)}
    regions, merged = [], set()
    for step in steps:
        node, value = step.node, walk.values[step.node]
        if value.anchor is node or not is_materialised(walk, node):
            continue
        within = [steps[i] for i in sorted(order[n] for n in value.nodes)]
        layers = {inner.node for inner in within if inner.weighted}
        if len(layers) > 1:
            nodes = tuple(inner.node for inner in within)
            gone = tuple(inner.node for inner in within if inner.node in removed or inner.marked)
            regions.append(Region(value.anchor, node, nodes, value.geometry, gone, value.before, value.mapped))
            merged |= layers
    skipped = []
    for step in steps:
        if step.weighted and step.node not in merged:
            start = walk.values[step.node].anchor
            if isinstance(step.op, str):
                skipped.append(Skipped(step.node.target, step.op))
            elif start.op != "placeholder":
                reason = walk.why_anchor.get(start, f"{describe(start)} is not linear")
                if is_activation(start):
                    reason = f"the activation {describe(start)} comes before it"
                skipped.append(Skipped(step.node.target, reason))
    return regions, skipped
