"""Where a network is linear: its maximal affine regions, and the reason for every layer that is in none.

A region is an anchor, a later value that must exist because something else reads it, and the nodes between, which are
all affine (`fold.regions.walk`). Merging it replaces its layers by one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property, partial

from torch import fx, nn

from ..algebra.geometry import Geometry
from ..algebra.layers import is_weighted, layer_of
from ..algebra.operations import AffineOp, not_linear
from ..algebra.refusals import Code, Refusal
from ..graph.kept import kept_layers
from ..graph.nodes import (
    describe,
    is_activation,
    is_marked,
    module_of,
    parameters_of,
    positions,
    shape_of,
    target_of,
)  # fmt: skip
from .cutting import is_materialised, settle
from .steps import Step, Value, read_steps
from .walk import Policy, Rules, Walk


@dataclass(frozen=True)
class Region:
    """An affine part of a graph that one layer can replace: ``output`` as a convolution of ``anchor``."""

    anchor: fx.Node
    output: fx.Node
    nodes: tuple[fx.Node, ...]  # in graph order, ``output`` included, ``anchor`` not
    geometry: Geometry  # of the merged layer
    removed: tuple[fx.Node, ...]  # activations inside that are removed, or would have to be
    before: tuple[fx.Node, ...] = ()  # of ``nodes``, those that come to stand before it (`fold.algebra.commuting`)
    mapped: bool = False  # the bias differs by pixel, at the borders

    @cached_property
    def layers(self) -> tuple[fx.Node, ...]:
        """The weighted layers that are merged."""
        return tuple(node for node in self.nodes if is_weighted(node))

    @property
    def is_fitted(self) -> bool:
        """Whether one of the layers was fitted: it merges with what is exact around it, even where it stands alone."""
        return any(is_marked(module_of(node), "fitted") for node in self.layers)

    @property
    def is_costly(self) -> bool:
        """Whether a fitted layer would only get larger, as a depthwise one does that is added to a projection."""
        return self.is_fitted and self.macs[1] > self.macs[0]

    @property
    def macs(self) -> tuple[int, int]:
        """Multiply-accumulates per image before and after merging."""
        return sum(layer_macs(node) for node in self.layers), self.geometry.macs(
            positions(self.output, self.geometry.axes)
        )

    @property
    def parameters(self) -> tuple[int, int]:
        """Weights and biases before and after merging; BatchNorm, which disappears, counts before."""
        before = sum(p.numel() for node in self.nodes for p in parameters_of(node))
        pixels = math.prod(positions(self.output, self.geometry.axes)) if self.mapped else 1
        return before, self.geometry.parameters + self.geometry.out_channels * (pixels - 1)


@dataclass(frozen=True)
class Skipped:
    """A weighted layer, by its path, that was not merged with what comes before it, and why.

    ``reason`` is a sentence that names the layers at hand; ``code`` is of which kind it is.
    """

    layer: str
    reason: str
    code: Code


@dataclass(frozen=True)
class Regions:
    """The regions of a network that can be ``found``, and the weighted layers that are ``skipped``."""

    found: list[Region]
    skipped: list[Skipped]


def layer_macs(node: fx.Node) -> int:
    """Multiply-accumulates per image of a weighted layer in the graph."""
    layer, shape = layer_of(node), shape_of(node)
    if isinstance(layer, nn.Linear):
        return layer.weight.numel() * math.prod(shape[1:-1])
    # a transposed convolution scatters from its inputs: its work is per input pixel
    at = shape_of(node.all_input_nodes[0]) if layer.transposed else shape
    return layer.weight.numel() * math.prod(at[2:])


def exact_regions(traced: fx.GraphModule, removed: Collection[fx.Node] = ()) -> Regions:
    """The regions that can be merged exactly as they stand; arguments and choice as of `hoisted_regions`."""
    steps, without = read_steps(traced), frozenset(removed)
    policy = _policy(steps, without)
    hoisted = _collect(steps, without, settle(steps, Rules(without, policy, hoisted=True)))
    regions = _collect(steps, without, settle(steps, Rules(without, policy, hoisted=False)))
    # hoisting is no remedy for a layer that would stay apart even then
    reasons = {entry.layer: entry for entry in hoisted.skipped}
    return Regions(regions.found, [*(reasons.get(entry.layer, entry) for entry in regions.skipped), *_kept(traced)])


def hoisted_regions(traced: fx.GraphModule, removed: Collection[fx.Node] = ()) -> Regions:
    """The regions that can be merged exactly once their padding has been hoisted (`fold.regions.padding`).

    Args:
        traced: from `fold.graph.tracing.trace`.
        removed: activation nodes to be taken for removed.

    A region is merged across every activation that was removed in it. Where two layers were adjacent from the start,
    a region in which nothing was removed is merged unless that would undo a bottleneck; in a region with removals
    they stay apart unless merging needs no more multiply-accumulates, of the two or of the whole region: nobody asked
    for that merge.
    """
    regions = hoisted(read_steps(traced), frozenset(removed))
    return Regions(regions.found, [*regions.skipped, *_kept(traced)])


def hoisted(steps: list[Step], removed: frozenset[fx.Node]) -> Regions:
    """`hoisted_regions` of a graph that `read_steps` has read, for those who look at many sets of activations."""
    return _collect(steps, removed, settle(steps, Rules(removed, _policy(steps, removed), hoisted=True)))


def _policy(steps: list[Step], removed: frozenset[fx.Node]) -> Policy:
    """Which merges that are possible are made, see `hoisted_regions`."""
    everything = settle(steps, Rules(removed, lambda node, before, op, merged: None, hoisted=True))
    asked = [region for region in _regions(steps, removed, everything) if region.removed or region.is_fitted]
    by_layer = partial(_worth_merging, asked=frozenset(n for region in asked for n in region.nodes), whole=frozenset())
    pieces = _regions(steps, removed, settle(steps, Rules(removed, by_layer, hoisted=True)))
    whole = frozenset(n for region in asked if region.macs[1] <= _macs_of(region, pieces) for n in region.nodes)
    return partial(by_layer, whole=whole)


def _macs_of(whole: Region, pieces: Iterable[Region]) -> int:
    """Multiply-accumulates per image of the layers of ``whole``, where ``pieces`` of it are merged."""
    inside = [piece for piece in pieces if set(piece.layers) <= set(whole.layers)]
    return whole.macs[0] - sum(before - after for before, after in (piece.macs for piece in inside))


def _worth_merging(
    node: fx.Node,
    before: Value,
    op: AffineOp,
    merged: Geometry,
    *,
    asked: frozenset[fx.Node],
    whole: frozenset[fx.Node],
) -> Refusal | None:
    """The `Policy`: ``asked`` are the nodes of regions with removals, ``whole`` those of regions not to be cut."""
    if before.opened or node in whole:
        return None
    first, source = before.convolution, describe(op.input)
    if node in asked:
        pixels = positions(node, merged.axes)
        apart = first.macs(positions(op.input, merged.axes)) + op.geometry.macs(pixels)
        growth = merged.macs(pixels) / apart
        if growth > 1:
            sentence = f"no activation was removed after {source}, and merging would cost {growth:.1f}x the MACs"
            return Refusal("growth", sentence)
    elif op.geometry.in_channels < min(first.in_channels, op.geometry.out_channels):
        sentence = f"the {op.geometry.in_channels} channels of {source} are a bottleneck that merging would undo"
        return Refusal("bottleneck", sentence)
    return None


def foldable_activations(traced: fx.GraphModule) -> list[fx.Node]:
    """The activations whose removal, everything else kept, lets weighted layers merge (padding hoisted).

    Those of branches that meet in a sum or a concatenation count together: none of them is of use alone.
    """
    steps = read_steps(traced)

    def merged(removed: Collection[fx.Node]) -> int:
        return sum(len(region.layers) - 1 for region in hoisted(steps, frozenset(removed)).found)

    activations = [step.node for step in steps if is_activation(step.node)]
    meeting = [[x for x in step.inputs if x in activations] for step in steps if step.join is not None]
    groups = [*([node] for node in activations), *(group for group in meeting if len(group) > 1)]
    kept = merged(())
    foldable = {node for group in groups if merged(group) > kept for node in group}
    return [node for node in activations if node in foldable]


def _collect(steps: list[Step], removed: frozenset[fx.Node], walk: Walk) -> Regions:
    """The regions that a settled walk found, and the layers that it left."""
    regions = [region for region in _regions(steps, removed, walk) if region.removed or not region.is_costly]
    merged = {layer for region in regions for layer in region.layers}
    left = [_skipped(step, walk) for step in steps if step.weighted and step.node not in merged]
    return Regions(regions, [entry for entry in left if entry is not None])


def _regions(steps: list[Step], removed: frozenset[fx.Node], walk: Walk) -> list[Region]:
    """The regions of several layers, and those of a fitted layer and what is around it."""
    order = {step.node: i for i, step in enumerate(steps)}
    regions = []
    for step in steps:
        value = walk.values[step.node]
        if value.anchor is step.node or not is_materialised(walk, step.node):
            continue
        within = [steps[i] for i in sorted(order[n] for n in value.nodes)]
        if sum(inner.weighted for inner in within) > 1 or (len(within) > 1 and any(inner.fitted for inner in within)):
            regions.append(_region(step.node, value, within, removed))
    return regions


def _region(output: fx.Node, value: Value, within: list[Step], removed: frozenset[fx.Node]) -> Region:
    return Region(
        value.anchor,
        output,
        tuple(step.node for step in within),
        value.convolution,
        tuple(step.node for step in within if step.node in removed or step.marked),
        value.before,
        mapped=value.mapped,
    )


def _kept(traced: fx.GraphModule) -> list[Skipped]:
    """The layers in modules that tracing kept whole."""
    return [Skipped(layer, reason, "kept-whole") for layer, reason in kept_layers(traced)]


def _skipped(step: Step, walk: Walk) -> Skipped | None:
    """A layer that was not merged with what comes before it, and why; None where nothing comes before it."""
    anchor = walk.values[step.node].anchor
    if isinstance(step.op, Refusal):
        refusal = step.op
    elif anchor.op == "placeholder":
        return None
    elif is_activation(anchor):
        refusal = Refusal("activation", f"the activation {describe(anchor)} comes before it")
    else:
        refusal = walk.why_anchor.get(anchor, not_linear(anchor))
    return Skipped(target_of(step.node), refusal.sentence, refusal.code)
