"""One walk over a graph that carries each value as one convolution of its *anchor*.

The anchor is the last value before it that is not affine. Only shapes are composed here, no weights.

A value is cut before a layer that cannot be merged with it, or had better not be: the layer then has that value as its
anchor. Where a layer pads inside a region, the padding has to be hoisted to the region's first layer
(`fold.regions.padding`), or the value is cut before the padding layer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from torch import fx

from ..algebra.geometry import Geometry
from ..algebra.layers import affine_op, concatenated_axis
from ..algebra.operations import AffineOp
from ..algebra.refusals import Refusal
from ..graph.nodes import channel_axis, channels, describe, shape_of
from .border_checks import Border, border_of
from .steps import Step, Value

# Given a weighted layer, the value that it reads, the layer as an operation, and what they would be as one layer: why
# they had better stay apart, or None.
Policy = Callable[[fx.Node, Value, AffineOp, Geometry], "Refusal | None"]


@dataclass(frozen=True)
class Rules:
    """What a walk goes by: the activations taken for removed, what pays, and whether padding is taken for hoisted."""

    removed: frozenset[fx.Node]
    policy: Policy
    hoisted: bool = field(kw_only=True)


@dataclass
class Walk:
    """What a walk found: each node's value, and why those that are anchors are."""

    values: dict[fx.Node, Value] = field(default_factory=dict)
    why_anchor: dict[fx.Node, Refusal] = field(default_factory=dict)
    demanded: dict[fx.Node, Refusal] = field(default_factory=dict)  # cuts that this walk found to be necessary

    def read(self, node: fx.Node) -> Value:
        """A node as its readers see it."""
        return self.values[node] if node not in self.why_anchor else Value(node, None)

    def anchor(self, node: fx.Node, reason: Refusal) -> Value:
        """The value of a node that is no convolution of anything before it."""
        self.why_anchor[node] = reason
        return Value(node, None)


def walk_through(steps: list[Step], rules: Rules, cuts: dict[fx.Node, Refusal]) -> Walk:
    """The values of ``steps`` where those in ``cuts`` are anchors."""
    walk = Walk(why_anchor=dict(cuts))
    for step in steps:
        walk.values[step.node] = _value(step, rules, walk)
    return walk


def _value(step: Step, rules: Rules, walk: Walk) -> Value:
    node = step.node
    if node in rules.removed or step.passes:
        before = walk.read(step.inputs[0])
        opened = before.opened or node in rules.removed or step.marked
        return replace(before, nodes=before.nodes | {node}, opened=opened)
    if step.join is not None:
        joined = _joined(step, step.join, [walk.read(x) for x in step.inputs])
        return walk.anchor(node, joined) if isinstance(joined, Refusal) else joined
    if isinstance(step.op, Refusal):
        return _commuted(step, walk) or walk.anchor(node, step.op)
    return _applied(step, step.op, rules, walk)


def _applied(step: Step, op: AffineOp, rules: Rules, walk: Walk) -> Value:
    """The value of an affine operation: merged with what it reads, or that cut off."""
    node, before = step.node, walk.read(op.input)
    if before.geometry is not None and before.geometry.axes != op.geometry.axes:
        fitting = affine_op(node, before.geometry.axes)  # a number fits either
        op = fitting if isinstance(fitting, AffineOp) else op
    before = before.read_by(op)
    refusal = _refusal(node, before, op, rules)
    if refusal:
        walk.demanded[op.input] = refusal
        before = Value(op.input, None).read_by(op)
    # a bias that is wrong at the borders gets a map, unless it is hoisting that mends it
    maps = (op.geometry.transposed or not rules.hoisted) and border_of(node, before, op) is not Border.EXACT
    return replace(
        before,
        geometry=before.convolution.then(op.geometry),
        nodes=before.nodes | {node},
        biased=before.biased or op.biased,
        opened=(before.opened or step.marked) and not op.weighted,
        weighted=before.weighted or op.weighted,
        trailing=None if op.weighted else before.trailing,
        mapped=before.mapped or maps,
    )


def _refusal(node: fx.Node, before: Value, op: AffineOp, rules: Rules) -> Refusal | None:
    """Why ``op`` cannot be merged with the value that it reads, or had better not be; None where it can."""
    geometry = before.convolution
    if geometry.axes != op.geometry.axes:
        sentence = f"{describe(node)} works on another axis of {describe(op.input)} than the layers before it"
        return Refusal("channel-axis", sentence)
    for one, other in ((geometry, op.geometry), (op.geometry, geometry)):
        if one.transposed and not other.is_pointwise:
            sentence = f"{describe(node)}: a transposed convolution merges with pointwise layers only"
            return Refusal("transposed", sentence)
    wrong = _wrong_at_borders(node, before, op, rules)
    if wrong is None and op.weighted and before.weighted:
        return rules.policy(node, before, op, geometry.then(op.geometry))
    return wrong


def _wrong_at_borders(node: fx.Node, before: Value, op: AffineOp, rules: Rules) -> Refusal | None:
    """Why the merged layer would be wrong at the borders; None where it is right, or where it gets a map of biases."""
    border = border_of(node, before, op)
    if border is Border.EXACT:
        return None
    # without a weighted layer before it there is nothing to merge, so nothing to hoist for
    if not before.weighted:
        return Refusal("border", f"{describe(node)} pads the output of {describe(op.input)}")
    if before.before:
        sentence = f"{describe(node)} pads behind {describe(before.base)}, so merging is wrong at the borders"
        return Refusal("border", sentence)
    if border is Border.BIAS_ONLY and before.opened:
        return None
    if op.geometry.transposed:
        sentence = f"{describe(node)} spreads the bias of the layers before it unevenly at the borders"
        return Refusal("border", sentence)
    if rules.hoisted:
        return None
    sentence = f"{describe(node)} pads inside the region, so merging is wrong at the borders; hoist_padding first"
    return Refusal("hoist", sentence)


def _commuted(step: Step, walk: Walk) -> Value | None:
    """The value of an operation that can come to stand before the pointwise layers that it reads (`commuting`)."""
    value = walk.read(step.inputs[0]) if step.inputs else None
    if value is None or not value.weighted or not value.convolution.is_pointwise:
        return None
    axes = step.axes_after(value.convolution.axes)
    if axes is None or (axes != value.convolution.axes and value.convolution.groups > 1):
        return None
    nodes, before = value.nodes | {step.node}, (*value.before, step.node)
    trailing = value.trailing or step.node
    return replace(value, geometry=value.convolution.on(axes), nodes=nodes, before=before, trailing=trailing)


def _joined(step: Step, join: Callable[[Geometry, Geometry], Geometry], parts: list[Value]) -> Value | Refusal:
    """The sum or concatenation of values of one anchor."""
    node, what = step.node, describe(step.node)
    axes = next((p.geometry.axes for p in parts if p.geometry is not None), len(shape_of(node)) - 2)
    if join is Geometry.beside:
        if concatenated_axis(node) != channel_axis(node, axes):
            return Refusal("channel-axis", f"{what} does not concatenate channels")
        if not any(part.opened for part in parts):
            return Refusal("no-removal", f"{what} concatenates, and no activation was removed right before it")
    if len({(part.anchor, part.before) for part in parts}) > 1:
        names = " and ".join(dict.fromkeys(describe(part.base) for part in parts))
        return Refusal("join", f"{what} joins values of different anchors: {names}")
    try:
        geometries = [p.geometry or Geometry.identity(channels(p.base, axes), axes) for p in parts]
        geometry = functools.reduce(join, geometries)
    except ValueError:
        return Refusal("join", f"{what} joins values of {describe(parts[0].base)} at different strides")
    return Value(
        parts[0].anchor,
        geometry,
        frozenset({node}).union(*(part.nodes for part in parts)),
        biased=any(part.biased for part in parts),
        opened=any(part.opened for part in parts),
        weighted=any(part.weighted for part in parts),
        before=parts[0].before,
        mapped=any(part.mapped for part in parts),
        trailing=parts[0].trailing,
    )
