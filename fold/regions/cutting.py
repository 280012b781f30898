"""Where values have to be cut besides what a single walk sees: walk again until nothing more is to be cut."""

from __future__ import annotations

import math

from torch import fx

from ..algebra.refusals import Refusal
from ..graph.nodes import describe, positions
from .steps import Step
from .walk import Rules, Walk, walk_through


def settle(steps: list[Step], rules: Rules) -> Walk:
    """Walk until no new cut is needed. Cuts only ever grow, so this ends."""
    cuts: dict[fx.Node, Refusal] = {}
    while True:
        walk = walk_through(steps, rules, cuts)
        demanded = _computed_twice(steps, walk, cuts) or walk.demanded or _moved_in_vain(steps, walk)
        if not demanded:
            return walk
        cuts |= demanded


def is_materialised(walk: Walk, node: fx.Node) -> bool:
    """Whether the value of ``node`` has to exist because something reads it that does not have it inside."""
    return node in walk.why_anchor or not all(_has_inside(walk, node, user) for user in node.users)


def _has_inside(walk: Walk, node: fx.Node, user: fx.Node) -> bool:
    """Whether the value of ``user`` has ``node`` in it, ``node`` being no anchor."""
    return user in walk.values and node in walk.values[user].nodes


def _moved_in_vain(steps: list[Step], walk: Walk) -> dict[fx.Node, Refusal]:
    """The inputs of operations that moved before a merged layer for nothing: none follows, and no work is saved."""
    cuts = {}
    for step in steps:
        value = walk.values[step.node]
        if value.trailing is None or not is_materialised(walk, step.node):
            continue
        (x,) = value.trailing.all_input_nodes
        pixels_before = math.prod(positions(x, walk.values[x].convolution.axes))
        if math.prod(positions(step.node, value.convolution.axes)) >= pixels_before:
            sentence = f"{describe(value.trailing)} comes behind it, and no layer to merge with"
            cuts[x] = Refusal("in-vain", sentence)
    return cuts


def _computed_twice(steps: list[Step], walk: Walk, cuts: dict[fx.Node, Refusal]) -> dict[fx.Node, Refusal]:
    """Values that would be computed in more than one merged layer, at the point where their readers part."""
    targets: dict[fx.Node, frozenset[fx.Node]] = {}
    parting = {}
    for step in reversed(steps):
        node = step.node
        readers = [user for user in node.users if node not in cuts and _has_inside(walk, node, user)]
        own = frozenset({node}) if len(readers) < len(node.users) or not node.users else frozenset()
        reached = own.union(*(targets[user] for user in readers))
        targets[node] = reached
        carried_on = any(targets[user] == reached for user in readers)
        if walk.values[node].anchor is not node and len(reached) > 1 and not carried_on:
            sentence = f"{describe(node)} is read in several places, and is computed once"
            parting[node] = Refusal("read-twice", sentence)
    return parting
