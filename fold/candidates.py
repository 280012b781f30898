"""What could be folded: each set of activations whose removal merges layers into one, and what to measure for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from itertools import combinations, count

from torch import Tensor, fx, nn

from fold.added import add, addition
from fold.cost import MAX_GROWTH
from fold.folding import Merge, describe_region
from fold.graph import is_activation
from fold.layers import is_addition, is_concatenation, is_weighted, operands
from fold.regions import Region, find_regions
from fold.spans import Span, Spans
from fold.trace import trace

_MAX_ACTIVATIONS = 12  # of one candidate


@dataclass(frozen=True)
class Candidate:
    """Layers that become one when ``merge.activations`` go.

    ``occupies`` are numbers of layers and activations; candidates that share one exclude each other. ``merged`` and
    ``apart`` name the segments whose times to compare: the span around these layers with and without the merge.
    ``added`` is empty, or says which activation comes to stand behind the merged layer (`fold.added`).
    """

    merge: Merge
    occupies: frozenset[int]
    merged: str
    apart: str
    input_shape: tuple[int, ...]
    added: tuple[str, ...] = ()

    @property
    def changes(self) -> tuple[str, ...]:
        """The activations that go, and what is added: what `fold.checkpoint.remove` takes."""
        return (*self.merge.activations, *self.added)


@dataclass(frozen=True)
class Candidates:
    """All candidates of a network, ``whole``, the name of the segment that is all of it, and its ``activations``.

    ``adding`` has a second candidate for those of ``found`` whose merged layer no activation follows: with one.
    """

    found: list[Candidate]
    adding: list[Candidate]
    whole: str
    input_shape: tuple[int, ...]
    activations: int


def candidates(model: nn.Module, example: Tensor, max_growth: float = MAX_GROWTH) -> Candidates:
    """What could be folded in ``model``, in the order of its layers. No weights are merged for it.

    Takes any network that ``torch.fx`` can trace, which is not modified, and one input batch `[batch, in, *spatial]`.

    Raises:
        InputError: the network cannot be traced, does not accept ``example``, or gives more than one tensor.
    """
    return _survey(trace(model, example, share_weights=True), max_growth)[0]


def segments(
    model: nn.Module, example: Tensor, max_growth: float = MAX_GROWTH
) -> Iterator[tuple[str, nn.Module, tuple[int, ...]]]:
    """What to measure for a plan: (name, module, shape of its input without the batch), the same work only once.

    Names are "st,end" for a merged layer in place of the layers st + 1 to end, "active st,end" for one with an
    activation added behind it, and "apart st,end" for layers as they are in the network, of which "apart 0,N" is all
    of it. Arguments and errors as of `candidates`.
    """
    for name, (span, removed, added) in _survey(trace(model, example, share_weights=True), max_growth)[1].items():
        yield name, span.module() if removed is None else span.folded(removed, added), span.input_shape


def merges_of(model: nn.Module, example: Tensor, changes: Collection[str]) -> set[tuple[str, ...]]:
    """The layers of each merge that ``changes`` allow: activations that go, and additions.

    Arguments and errors as of `candidates` and `fold.added.add`.
    """
    traced = add(trace(model, example, share_weights=True), changes)
    removed = [node for node in traced.graph.nodes if is_activation(node) and node.target in changes]
    regions, _ = find_regions(traced, removed, any_padding=True)
    return {tuple(node.target for node in region.layers) for region in regions if region.removed}


_Segments = dict[str, tuple[Span, "tuple[fx.Node, ...] | None", tuple[fx.Node, ...]]]


def _survey(traced: fx.GraphModule, max_growth: float) -> tuple[Candidates, _Segments]:
    spans, names = Spans(traced), _Names(traced)
    whole = spans.whole()
    of_network = names.apart(whole)
    linear = _read_linearly(traced)
    found, adding = [], []
    for region, occupies in _regions(traced, max_growth):
        span = spans.around(region)
        segments = (names.merged(region, span), names.apart(span))
        found.append(Candidate(describe_region(region), occupies, *segments, span.input_shape))
        if region.output in linear:
            added = (region.output, region.removed[-1])
            merged = names.merged(region, span, added)
            adding.append(replace(found[-1], merged=merged, added=(addition(*added),)))
    activations = sum(is_activation(node) for node in traced.graph.nodes)
    return Candidates(found, adding, of_network, whole.input_shape, activations), names.segments


class _Names:
    """Gives segments their names, the same to those that are the same."""

    def __init__(self, traced: fx.GraphModule):
        self._layers = [node for node in traced.graph.nodes if is_weighted(node)]
        self._known: dict[tuple, str] = {}
        self.segments: _Segments = {}

    def apart(self, span: Span) -> str:
        return self._name("apart ", span.nodes, span, None)

    def merged(self, region: Region, span: Span, added: tuple[fx.Node, ...] = ()) -> str:
        return self._name("active " if added else "", region.layers, span, region.removed, added)

    def _name(
        self,
        prefix: str,
        nodes: Collection[fx.Node],
        span: Span,
        removed: tuple[fx.Node, ...] | None,
        added: tuple[fx.Node, ...] = (),
    ) -> str:
        signature = (prefix, span.signature(removed or (), added))
        if signature not in self._known:
            numbers = [i for i, layer in enumerate(self._layers) if layer in nodes]
            name = f"{prefix}{numbers[0]},{numbers[-1] + 1}"
            taken = sum(other.partition(" also ")[0] == name for other in self.segments)
            name += f" also {taken}" if taken else ""
            self._known[signature] = name
            self.segments[name] = (span, removed, added)
        return self._known[signature]


def _read_linearly(traced: fx.GraphModule) -> set[fx.Node]:
    """The values that reach weighted layers before they reach an activation or the end of the network."""
    found: set[fx.Node] = set()
    for node in reversed(traced.graph.nodes):
        if node.users and all(is_weighted(user) or (user in found and not is_activation(user)) for user in node.users):
            found.add(node)
    return found


@dataclass(frozen=True)
class _Found:
    region: Region
    gone: frozenset[fx.Node]


def _regions(traced: fx.GraphModule, max_growth: float) -> list[tuple[Region, frozenset[int]]]:
    """Regions that exactly a set of activations opens, and the numbers of the layers and activations in each.

    Of sets that merge the same layers the smallest is taken. Sets grow from single activations, by one that has no
    other between, and by each other. Of two that together would not merge as each does alone (no activation is between
    them), only one can be chosen: they get a number in common.
    """
    beside = _neighbours(traced)
    joins = [node for node in traced.graph.nodes if is_addition(node) or is_concatenation(node)]
    meeting = [frozenset(x for x in operands(node) if x in beside) for node in joins]
    queue = deque((s, False) for s in dict.fromkeys([*(frozenset([a]) for a in beside), *meeting]) if s)
    opened: dict[frozenset[fx.Node], list[Region]] = {}
    found: dict[tuple[fx.Node, ...], _Found] = {}
    while queue:
        gone, was_costly = queue.popleft()
        regions = find_regions(traced, gone, any_padding=True)[0]
        opened[gone] = [region for region in regions if gone & set(region.removed)]
        if len(opened[gone]) == 1 and gone <= set(opened[gone][0].removed):
            (region,) = opened[gone]
            costly = region.macs[1] > max_growth * region.macs[0]
            if not costly:
                found.setdefault(region.layers, _Found(region, gone))
            if not (costly and was_costly):
                queue.extend((gone | {other}, costly) for member in gone for other in beside[member])
        while queue and (queue[0][0] in opened or len(queue[0][0]) > _MAX_ACTIVATIONS):
            queue.popleft()
        if not queue:
            unions = (one.gone | other.gone for one, other in _touching(found, beside))
            queue.extend((union, False) for union in unions if union not in opened and len(union) <= _MAX_ACTIVATIONS)
    order = {node: i for i, node in enumerate(traced.graph.nodes)}
    occupied = {layers: {order[node] for node in (*layers, *each.gone)} for layers, each in found.items()}
    number = count(len(order))
    for one, other in _touching(found, beside):
        together = opened.get(one.gone | other.gone, [])
        if {region.layers for region in together} != {one.region.layers, other.region.layers}:
            shared = next(number)
            occupied[one.region.layers].add(shared)
            occupied[other.region.layers].add(shared)
    ordered = sorted(found, key=lambda layers: [order[node] for node in layers])
    return [(found[layers].region, frozenset(occupied[layers])) for layers in ordered]


def _touching(
    found: dict[tuple[fx.Node, ...], _Found], beside: dict[fx.Node, list[fx.Node]]
) -> Iterator[tuple[_Found, _Found]]:
    """The pairs that have no layer in common, and no activation between them."""
    for one, other in combinations(found.values(), 2):
        apart = not set(one.region.layers) & set(other.region.layers) and not one.gone & other.gone
        if apart and any(node in other.gone for member in one.gone for node in beside[member]):
            yield one, other


def _neighbours(traced: fx.GraphModule) -> dict[fx.Node, list[fx.Node]]:
    """For each activation, those that a path leads to or from without another in between."""
    beside: dict[fx.Node, list[fx.Node]] = {node: [] for node in traced.graph.nodes if is_activation(node)}
    last: dict[fx.Node, set[fx.Node]] = {}  # the activations that a value comes from
    for node in traced.graph.nodes:
        before = set().union(*(({x} if x in beside else last[x]) for x in node.all_input_nodes))
        if node in beside:
            for other in before:
                beside[node].append(other)
                beside[other].append(node)
        last[node] = before
    return beside
