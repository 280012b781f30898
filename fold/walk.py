"""One walk over a graph that carries each value as one convolution of its *anchor*.

The anchor is the last value before it that is not affine. Only shapes are composed here, no weights.

Exactness at the borders: a layer that pads may follow another only where the padded zeros are what the earlier layer
would have given there. With a bias in between they never are. Where all that is wrong is the bias, since the earlier
layers look at single pixels, a map with one bias per pixel repairs it, for one size of image. Else the padding has to
be hoisted to the region's first layer (`fold.padding`), or the value is cut before the padding layer.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace

from torch import fx

from fold.affine import Geometry
from fold.commute import axes_after
from fold.graph import channel_axis, channels, describe, module_of, positions
from fold.layers import (
    affine_op,
    concatenated_axis,
    is_addition,
    is_concatenation,
    is_passthrough,
    is_weighted,
    operands,
)
from fold.operations import AffineOp


@dataclass(frozen=True)
class Step:
    """A node and what it is in the algebra: read off the graph once, since many walks go over the same graph."""

    node: fx.Node
    join: Callable[[Geometry, Geometry], Geometry] | None  # of a sum or a concatenation
    passes: bool  # returns its input unchanged
    marked: bool  # stands where an activation was removed
    weighted: bool
    inputs: tuple[fx.Node, ...]  # the values that it works on
    op: AffineOp | str  # the reason why it is not one


def read_steps(traced: fx.GraphModule) -> list[Step]:
    """What each node of a graph from `fold.trace.trace` is, in order."""
    steps = []
    for node in traced.graph.nodes:
        join = Geometry.plus if is_addition(node) else Geometry.beside if is_concatenation(node) else None
        marked = hasattr(module_of(node), "removed")
        steps.append(Step(node, join, is_passthrough(node), marked, is_weighted(node), operands(node), affine_op(node)))
    return steps


@dataclass(frozen=True)
class Value:
    """A value as a convolution of its anchor."""

    anchor: fx.Node
    geometry: Geometry | None  # None: the anchor itself, as many axes as its reader wants
    nodes: frozenset[fx.Node] = frozenset()
    biased: bool = False
    # a removed activation since the last weighted layer: merging the next one is what its removal was for
    opened: bool = False
    weighted: bool = False
    before: tuple[fx.Node, ...] = ()  # what the convolution reads is these applied to the anchor
    mapped: bool = False
    trailing: fx.Node | None = None  # the first of ``before`` behind which no weighted layer has come yet

    @property
    def base(self) -> fx.Node:
        """The node that has the spatial size of what the convolution reads."""
        return self.before[-1] if self.before else self.anchor


@dataclass
class Walk:
    """What a walk found: each node's value, and why those that are anchors are."""

    values: dict[fx.Node, Value] = field(default_factory=dict)
    why_anchor: dict[fx.Node, str] = field(default_factory=dict)
    demanded: dict[fx.Node, str] = field(default_factory=dict)  # cuts that this walk found to be necessary


Policy = Callable[[fx.Node, Value, AffineOp, Geometry], "str | None"]


def settle(steps: list[Step], removed: frozenset[fx.Node], any_padding: bool, policy: Policy) -> Walk:
    """Walk until no new cut is needed. Cuts only ever grow, so this ends."""
    cuts: dict[fx.Node, str] = {}
    while True:
        walk = _walk(steps, removed, any_padding, policy, cuts)
        demanded = _computed_twice(steps, walk, cuts) or walk.demanded or _moved_in_vain(steps, walk)
        if not demanded:
            return walk
        cuts |= demanded


def _walk(
    steps: list[Step], removed: frozenset[fx.Node], any_padding: bool, policy: Policy, cuts: dict[fx.Node, str]
) -> Walk:
    walk = Walk(why_anchor=dict(cuts))

    def read(node: fx.Node) -> Value:
        """A node as its readers see it."""
        return Value(node, None) if node in cuts else walk.values[node]

    def anchor(node: fx.Node, reason: str) -> Value:
        walk.why_anchor[node] = reason
        return Value(node, None)

    for step in steps:
        node = step.node
        if node in removed or step.passes:
            before = read(node.args[0])
            opened = before.opened or node in removed or step.marked
            walk.values[node] = replace(before, nodes=before.nodes | {node}, opened=opened)
        elif step.join is not None:
            walk.values[node] = _join(step, [read(x) for x in step.inputs], anchor)
        elif (commuted := _commuted(step, read)) is not None:
            walk.values[node] = commuted
        elif isinstance(step.op, str):
            walk.values[node] = anchor(node, step.op)
        else:
            op, before = step.op, read(step.op.input)
            if before.geometry is not None and before.geometry.axes != op.geometry.axes:
                op = affine_op(node, before.geometry.axes)  # a number fits either
            before = _with_axes(before, op)
            cut = _refusal(node, before, op, any_padding, policy)
            if cut:
                walk.demanded[op.input] = cut
                before = _with_axes(Value(op.input, None), op)
            walk.values[node] = replace(
                before,
                geometry=before.geometry.then(op.geometry),
                nodes=before.nodes | {node},
                biased=before.biased or op.biased,
                opened=before.opened and not op.weighted,
                weighted=before.weighted or op.weighted,
                trailing=None if op.weighted else before.trailing,
                mapped=before.mapped or (_is_mapped(op, any_padding) and _border(node, before, op) != _EXACT),
            )
    return walk


def _with_axes(value: Value, op: AffineOp) -> Value:
    if value.geometry is None:
        return replace(value, geometry=Geometry.identity(op.geometry.in_channels, op.geometry.axes))
    return value


def _refusal(node: fx.Node, before: Value, op: AffineOp, any_padding: bool, policy: Policy) -> str | None:
    """Why ``op`` cannot be merged with the value that it reads; None where it can."""
    if before.geometry.axes != op.geometry.axes:
        return f"{describe(node)} works on another axis of {describe(op.input)} than the layers before it"
    for one, other in ((before.geometry, op.geometry), (op.geometry, before.geometry)):
        if one.transposed and not other.is_pointwise:
            return f"{describe(node)}: a transposed convolution merges with pointwise layers only"
    border = _border(node, before, op)
    if border != _EXACT:
        # without a weighted layer before it there is nothing to merge, so nothing to hoist for
        if not before.weighted:
            return f"{describe(node)} pads the output of {describe(op.input)}"
        if before.before:
            return f"{describe(node)} pads behind {describe(before.base)}, so merging is wrong at the borders"
        may_be_mapped = border == _BIAS_ONLY and before.opened
        if op.geometry.transposed and not may_be_mapped:
            return f"{describe(node)} spreads the bias of the layers before it unevenly at the borders"
        if not any_padding and not may_be_mapped:
            return f"{describe(node)} pads inside the region, so merging is wrong at the borders; hoist_padding first"
    if op.weighted and before.weighted:
        return policy(node, before, op, before.geometry.then(op.geometry))
    return None


def _is_mapped(op: AffineOp, any_padding: bool) -> bool:
    """Whether a bias that is wrong at the borders gets a map: else it is hoisting that mends it."""
    return op.geometry.transposed or not any_padding


_EXACT, _BIAS_ONLY, _WRONG = "exact", "bias only", "wrong"


def _border(node: fx.Node, before: Value, op: AffineOp) -> str:
    """Whether the zeros that ``op`` pads are what the value before it would be there; or would be without its bias."""
    if before.anchor is op.input:
        return _EXACT
    if op.geometry.transposed:  # reaches fewer pixels at the borders
        return _BIAS_ONLY if before.biased else _EXACT
    found = _EXACT
    for axis, ((lo, _), stride, span) in enumerate(
        zip(op.geometry.padding, op.geometry.stride, op.geometry.span, strict=True)
    ):
        size, outputs = positions(op.input, op.geometry.axes)[axis], positions(node, op.geometry.axes)[axis]
        first = range(min(outputs, -(-lo // stride)))  # the outputs that read in front of the value
        last = range(max(len(first), (size - span + lo) // stride + 1), outputs)  # and behind it
        taps = range(0, span, op.geometry.dilation[axis])
        padded = {q for o in (*first, *last) for tap in taps if not 0 <= (q := stride * o + tap - lo) < size}
        if any(_reads(before, axis, q) for q in padded):
            return _WRONG
        if padded and before.biased:
            found = _BIAS_ONLY
    return found


def _reads(value: Value, axis: int, position: int) -> bool:
    """Whether ``value``, computed at a ``position`` outside of it, would read anything but zeros."""
    g = value.geometry
    start = position * g.stride[axis] - g.padding[axis][0]
    return any(
        0 <= start + tap < positions(value.base, g.axes)[axis] for tap in range(0, g.span[axis], g.dilation[axis])
    )


def _commuted(step: Step, read: Callable[[fx.Node], Value]) -> Value | None:
    """The value of an operation that can come to stand before the pointwise layers that it reads (`fold.commute`)."""
    value = read(step.inputs[0]) if isinstance(step.op, str) and step.inputs else None
    if value is None or not value.weighted or not value.geometry.is_pointwise:
        return None
    axes = axes_after(step.node, value.geometry.axes)
    if axes is None or (axes != value.geometry.axes and value.geometry.groups > 1):
        return None
    nodes, before = value.nodes | {step.node}, (*value.before, step.node)
    trailing = value.trailing or step.node
    return replace(value, geometry=value.geometry.on(axes), nodes=nodes, before=before, trailing=trailing)


def _join(step: Step, parts: list[Value], anchor: Callable[[fx.Node, str], Value]) -> Value:
    """The sum or concatenation of values of one anchor."""
    node, what = step.node, describe(step.node)
    axes = next((p.geometry.axes for p in parts if p.geometry is not None), len(node.meta["shape"]) - 2)
    if step.join is Geometry.beside:
        if concatenated_axis(node) != channel_axis(node, axes):
            return anchor(node, f"{what} does not concatenate channels")
        if not any(part.opened for part in parts):
            return anchor(node, f"{what} concatenates, and no activation was removed right before it")
    bases = {(part.anchor, part.before) for part in parts}
    if len(bases) > 1:
        names = " and ".join(dict.fromkeys(describe(part.base) for part in parts))
        return anchor(node, f"{what} joins values of different anchors: {names}")
    try:
        geometries = [p.geometry or Geometry.identity(channels(p.base, axes), axes) for p in parts]
        geometry = functools.reduce(step.join, geometries)
    except ValueError:
        return anchor(node, f"{what} joins values of {describe(parts[0].base)} at different strides")
    return Value(
        parts[0].anchor,
        geometry,
        frozenset({node}).union(*(part.nodes for part in parts)),
        any(part.biased for part in parts),
        any(part.opened for part in parts),
        any(part.weighted for part in parts),
        parts[0].before,
        any(part.mapped for part in parts),
        parts[0].trailing,
    )


def is_materialised(walk: Walk, node: fx.Node) -> bool:
    """Whether the value of ``node`` has to exist because something reads it that does not have it inside."""
    return node in walk.why_anchor or not all(_absorbs(walk, walk.why_anchor, node, user) for user in node.users)


def _moved_in_vain(steps: list[Step], walk: Walk) -> dict[fx.Node, str]:
    """The inputs of operations that moved before a merged layer for nothing: none follows, and no work is saved."""
    cuts = {}
    for step in steps:
        first = walk.values[step.node].trailing
        if first is not None and is_materialised(walk, step.node):
            axes = walk.values[first.args[0]].geometry.axes
            after = walk.values[step.node].geometry.axes
            if math.prod(positions(step.node, after)) >= math.prod(positions(first.args[0], axes)):
                cuts[first.args[0]] = f"{describe(first)} comes behind it, and no layer to merge with"
    return cuts


def _absorbs(walk: Walk, cuts: Collection[fx.Node], node: fx.Node, user: fx.Node) -> bool:
    """Whether the value of ``user`` has ``node`` in it."""
    return node not in cuts and user in walk.values and node in walk.values[user].nodes


def _computed_twice(steps: list[Step], walk: Walk, cuts: dict[fx.Node, str]) -> dict[fx.Node, str]:
    """Values that would be computed in more than one merged layer, at the point where their readers part."""
    targets: dict[fx.Node, frozenset[fx.Node]] = {}
    parting = {}
    for step in reversed(steps):
        node = step.node
        value = walk.values[node]
        readers = [user for user in node.users if _absorbs(walk, cuts, node, user)]
        own = frozenset({node}) if len(readers) < len(node.users) or not node.users else frozenset()
        reached = own.union(*(targets[user] for user in readers))
        targets[node] = reached
        carried_on = any(targets[user] == reached for user in readers)
        if value.anchor is not node and len(reached) > 1 and not carried_on:
            parting[node] = f"{describe(node)} is read in several places, and is computed once"
    return parting
