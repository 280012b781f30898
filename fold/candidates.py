"""What could be folded: each set of activations whose removal merges layers into one, and what to measure for it."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from torch import Tensor, fx, nn

from fold.graph import is_activation
from fold.layers import is_addition, is_concatenation, is_weighted, operands
from fold.regions import Region, find_regions
from fold.rewrite import Merge, describe_region
from fold.spans import Span, Spans
from fold.trace import trace

MAX_GROWTH = 2.0  # more multiply-accumulates than this many times those of the layers apart are never measured
_MAX_ACTIVATIONS = 12  # of one candidate


@dataclass(frozen=True)
class Candidate:
    """Layers that become one when ``merge.activations`` go.

    ``occupies`` are numbers of layers and activations; candidates that share one exclude each other. ``merged`` and
    ``apart`` name the segments whose times to compare: the span around these layers with and without the merge.
    """

    merge: Merge
    occupies: frozenset[int]
    merged: str
    apart: str
    input_shape: tuple[int, ...]


@dataclass(frozen=True)
class Candidates:
    """All candidates of a network, ``whole``, the name of the segment that is all of it, and its ``activations``."""

    found: list[Candidate]
    whole: str
    input_shape: tuple[int, ...]
    activations: int


def candidates(model: nn.Module, example: Tensor, max_growth: float = MAX_GROWTH) -> Candidates:
    """What could be folded in ``model``, in the order of its layers. No weights are merged for it.

    Takes any network that ``torch.fx`` can trace, which is not modified, and one input batch `[batch, in, *spatial]`.

    Raises:
        InputError: the network cannot be traced, does not accept ``example``, or gives more than one tensor.
    """
    return _survey(trace(model, example), max_growth)[0]


def segments(
    model: nn.Module, example: Tensor, max_growth: float = MAX_GROWTH
) -> Iterator[tuple[str, nn.Module, tuple[int, ...]]]:
    """What to measure for a plan: (name, module, shape of its input without the batch), the same work only once.

    Names are "st,end" for a merged layer in place of the layers st + 1 to end, and "apart st,end" for layers as they
    are in the network, of which "apart 0,N" is all of it. Arguments and errors as of `candidates`.
    """
    for name, (span, removed) in _survey(trace(model, example), max_growth)[1].items():
        yield name, span.module() if removed is None else span.folded(removed), span.input_shape


def merges_of(model: nn.Module, example: Tensor, activations: Collection[str]) -> set[tuple[str, ...]]:
    """The layers of each merge that removing ``activations`` allows; arguments and errors as of `candidates`."""
    traced = trace(model, example)
    removed = [node for node in traced.graph.nodes if is_activation(node) and node.target in activations]
    regions, _ = find_regions(traced, removed, any_padding=True)
    return {tuple(node.target for node in region.layers) for region in regions if region.removed}


_Segments = dict[str, tuple[Span, "tuple[fx.Node, ...] | None"]]


def _survey(traced: fx.GraphModule, max_growth: float) -> tuple[Candidates, _Segments]:
    spans, names = Spans(traced), _Names(traced)
    whole = spans.whole()
    of_network = names.apart(whole)
    found = []
    for region, occupies in _exclusive(traced, _regions(traced, max_growth)):
        span = spans.around(region)
        segments = (names.merged(region, span), names.apart(span))
        found.append(Candidate(describe_region(region), occupies, *segments, span.input_shape))
    activations = sum(is_activation(node) for node in traced.graph.nodes)
    return Candidates(found, of_network, whole.input_shape, activations), names.segments


class _Names:
    """Gives segments their names, the same to those that are the same."""

    def __init__(self, traced: fx.GraphModule):
        self._layers = [node for node in traced.graph.nodes if is_weighted(node)]
        self._known: dict[tuple, str] = {}
        self.segments: _Segments = {}

    def apart(self, span: Span) -> str:
        return self._name("apart ", span.nodes, span, None)

    def merged(self, region: Region, span: Span) -> str:
        return self._name("", region.layers, span, region.removed)

    def _name(self, prefix: str, nodes: Collection[fx.Node], span: Span, removed: tuple[fx.Node, ...] | None) -> str:
        signature = (prefix, span.signature(removed or ()))
        if signature not in self._known:
            numbers = [i for i, layer in enumerate(self._layers) if layer in nodes]
            name = f"{prefix}{numbers[0]},{numbers[-1] + 1}"
            taken = sum(other.partition(" also ")[0] == name for other in self.segments)
            name += f" also {taken}" if taken else ""
            self._known[signature] = name
            self.segments[name] = (span, removed)
        return self._known[signature]


def _regions(traced: fx.GraphModule, max_growth: float) -> list[tuple[Region, frozenset[fx.Node]]]:
    """Regions that exactly a set of activations opens, with the set; of sets that merge the same layers the smallest.

    Sets grow from single activations by one that has no other between; a set that opens no region ends there.
    """
    activations = [node for node in traced.graph.nodes if is_activation(node)]
    beside = _neighbours(traced, activations)
    joins = [node for node in traced.graph.nodes if is_addition(node) or is_concatenation(node)]
    meeting = [frozenset(x for x in operands(node) if x in beside) for node in joins]
    queue = deque((s, False) for s in dict.fromkeys([*(frozenset([a]) for a in activations), *meeting]) if s)
    seen, found = {s for s, _ in queue}, {}
    while queue:
        gone, was_costly = queue.popleft()
        opened = [region for region in find_regions(traced, gone, any_padding=True)[0] if gone & set(region.removed)]
        if len(opened) != 1 or not gone <= set(opened[0].removed):
            continue
        (region,) = opened
        costly = region.macs[1] > max_growth * region.macs[0]
        if not costly:
            found.setdefault(region.layers, (region, gone))
        if (costly and was_costly) or len(gone) == _MAX_ACTIVATIONS:
            continue
        for other in dict.fromkeys(node for member in gone for node in beside[member]):
            if other not in gone and gone | {other} not in seen:
                seen.add(gone | {other})
                queue.append((gone | {other}, costly))
    order = {node: i for i, node in enumerate(traced.graph.nodes)}
    return sorted(found.values(), key=lambda pair: [order[node] for node in pair[0].layers])


def _neighbours(traced: fx.GraphModule, activations: list[fx.Node]) -> dict[fx.Node, list[fx.Node]]:
    """For each activation, those that a path leads to or from without another in between."""
    beside: dict[fx.Node, list[fx.Node]] = {node: [] for node in activations}
    last: dict[fx.Node, set[fx.Node]] = {}  # the activations that a value comes from
    for node in traced.graph.nodes:
        before = set().union(*(({x} if x in beside else last[x]) for x in node.all_input_nodes))
        if node in beside:
            for other in before:
                beside[node].append(other)
                beside[other].append(node)
        last[node] = before
    return beside


def _exclusive(
    traced: fx.GraphModule, regions: list[tuple[Region, frozenset[fx.Node]]]
) -> Iterator[tuple[Region, frozenset[int]]]:
    """Each region with the numbers that it occupies.

    Where two, both chosen, would merge into a third (no activation is between them), they get a number in common.
    """
    order = {node: i for i, node in enumerate(traced.graph.nodes)}
    by_set = {gone: region for region, gone in regions}
    shared: dict[frozenset[fx.Node], set[int]] = defaultdict(set)
    pairs = ((one, union - one) for union in by_set for one in by_set if one < union and union - one in by_set)
    for number, (one, other) in enumerate(pairs):
        if not set(by_set[one].layers) & set(by_set[other].layers):
            shared[one].add(len(order) + number)
            shared[other].add(len(order) + number)
    for region, gone in regions:
        yield region, frozenset(order[node] for node in (*region.layers, *gone)) | shared[gone]
