"""Which sets of activations to remove: each opens one region, whose layers merge into one.

Sets grow from single activations, by one that has no other between, and by each other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations, count

from torch import fx

from ..algebra.layers import is_addition, is_concatenation, operands
from ..graph.nodes import is_activation
from ..regions.finding import Region
from .windows import Windows

_MAX_ACTIVATIONS = 12  # of one set

ActivationSet = frozenset[fx.Node]


@dataclass(frozen=True)
class Removal:
    """Activations, and the one region that exactly they open.

    ``occupies`` are numbers of the layers and activations; removals that share a number exclude each other.
    """

    region: Region
    activations: ActivationSet
    occupies: frozenset[int]


def removals(traced: fx.GraphModule, max_growth: float) -> list[Removal]:
    """All removals in a graph from `fold.graph.tracing.trace`, in the order of their layers.

    Of sets that merge the same layers the smallest is taken. A merge is costly where it takes more than ``max_growth``
    times the multiply-accumulates; a smaller layer can still be fitted there. What only costly merges lead to is not
    looked for. Of two removals that together would not merge as each does alone, though no activation is between them,
    only one can be chosen: they get a number in common.
    """
    search = _Search(traced, max_growth)
    search.run()
    order = {node: i for i, node in enumerate(traced.graph.nodes)}
    occupied = {opened: {order[node] for node in (*opened.layers, *opened.activations)} for opened in search.found()}
    numbers = count(len(order))
    for pair in search.touching(search.found()):
        if not search.merge_as_alone(*pair):
            shared = next(numbers)
            for opened in pair:
                occupied[opened].add(shared)
    ordered = sorted(occupied, key=lambda opened: [order[node] for node in opened.layers])
    return [Removal(opened.region, opened.activations, frozenset(occupied[opened])) for opened in ordered]


@dataclass(frozen=True, eq=False)
class _Opened:
    region: Region
    activations: ActivationSet
    costly: bool

    @property
    def layers(self) -> tuple[fx.Node, ...]:
        return self.region.layers


class _Search:
    """Goes through sets of activations, smaller ones first, and keeps what each opens."""

    def __init__(self, traced: fx.GraphModule, max_growth: float):
        self._traced = traced
        self._windows = Windows(traced)
        self._max_growth = max_growth
        self._beside = _neighbours(traced)
        self._regions: dict[ActivationSet, list[Region]] = {}  # those in which one of the set is removed
        self._found: dict[tuple[fx.Node, ...], _Opened] = {}  # by layers

    def run(self) -> None:
        self._grow(self._seeds())
        while unions := list(self._unions()):
            self._grow(unions)

    def found(self) -> Iterable[_Opened]:
        return self._found.values()

    def touching(self, found: Iterable[_Opened]) -> Iterator[tuple[_Opened, _Opened]]:
        """The pairs of ``found`` that have no layer in common, and no activation between them."""
        for one, other in combinations(found, 2):
            apart = not set(one.layers) & set(other.layers) and not one.activations & other.activations
            if apart and any(node in other.activations for member in one.activations for node in self._beside[member]):
                yield one, other

    def merge_as_alone(self, one: _Opened, other: _Opened) -> bool:
        """Whether both, removed together, open the two regions that they open alone."""
        together = self._opened_by(one.activations | other.activations)
        return {region.layers for region in together} == {one.layers, other.layers}

    def _seeds(self) -> Iterator[ActivationSet]:
        """Single activations, and those that meet in an addition or a concatenation."""
        yield from (frozenset([activation]) for activation in self._beside)
        for node in self._traced.graph.nodes:
            if is_addition(node) or is_concatenation(node):
                meeting = frozenset(operand for operand in operands(node) if operand in self._beside)
                if meeting:
                    yield meeting

    def _unions(self) -> Iterator[ActivationSet]:
        """The sets of two that touch, as far as they are new."""
        cheap = [opened for opened in self._found.values() if not opened.costly]
        unions = (one.activations | other.activations for one, other in self.touching(cheap))
        return (union for union in unions if union not in self._regions and len(union) <= _MAX_ACTIVATIONS)

    def _grow(self, sets: Iterable[ActivationSet]) -> None:
        """Look at ``sets``, and at what they grow into: a set that merges cheaply, or whose parent does, grows on."""
        queue = deque((activations, False) for activations in sets)
        while queue:
            activations, parent_is_costly = queue.popleft()
            if activations in self._regions or len(activations) > _MAX_ACTIVATIONS:
                continue
            region = self._open(activations)
            if region is None:
                continue
            costly = region.macs[1] > self._max_growth * region.macs[0]
            self._found.setdefault(region.layers, _Opened(region, activations, costly))
            if not (costly and parent_is_costly):
                grown = (activations | {other} for member in activations for other in self._beside[member])
                queue.extend((larger, costly) for larger in grown)

    def _open(self, activations: ActivationSet) -> Region | None:
        """The region that needs exactly ``activations`` removed; None where they open none, or several."""
        regions = self._opened_by(activations)
        return regions[0] if len(regions) == 1 and activations <= set(regions[0].removed) else None

    def _opened_by(self, activations: ActivationSet) -> list[Region]:
        """The regions in which one of ``activations`` is removed."""
        if activations not in self._regions:
            self._regions[activations] = self._windows.regions(activations)
        return self._regions[activations]


def _neighbours(traced: fx.GraphModule) -> dict[fx.Node, list[fx.Node]]:
    """For each activation, those that a path leads to or from without another in between."""
    beside: dict[fx.Node, list[fx.Node]] = {node: [] for node in traced.graph.nodes if is_activation(node)}
    last: dict[fx.Node, set[fx.Node]] = {}  # the activations that a value comes from
    for node in traced.graph.nodes:
        before: set[fx.Node] = set()
        for source in node.all_input_nodes:
            before |= {source} if source in beside else last[source]
        if node in beside:
            for other in before:
                beside[node].append(other)
                beside[other].append(node)
        last[node] = before
    return beside
