"""The regions that removed activations open, from a look at the part of the graph that the activations can reach."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection
from dataclasses import replace

from torch import fx

from ..graph.nodes import is_activation
from ..regions.finding import Region, hoisted
from ..regions.steps import read_steps
from .stations import stations


class Windows:
    """The regions of a graph for many sets of activations.

    An activation that stays, and through which everything goes, separates what comes before it from what comes behind
    it. So only the steps between two of them are looked at.
    """

    def __init__(self, traced: fx.GraphModule):
        self._steps = read_steps(traced)
        self._order = {step.node: i for i, step in enumerate(self._steps)}
        self._separators = [self._order[node] for node in stations(traced) if is_activation(node)]

    def regions(self, activations: Collection[fx.Node]) -> list[Region]:
        """The regions in which some of ``activations`` are removed, as `fold.regions.finding.hoisted_regions` has them
        for the whole graph."""
        places = [self._order[node] for node in activations]
        before = bisect_left(self._separators, min(places)) - 1
        behind = bisect_left(self._separators, max(places) + 1)
        steps = self._steps
        if behind < len(self._separators):
            steps = steps[: self._separators[behind] + 1]
        if before >= 0:
            start = self._separators[before]
            steps = [replace(steps[start], inputs=()), *steps[start + 1 :]]
        removed = frozenset(activations)
        return [region for region in hoisted(steps, removed).found if removed & set(region.removed)]
