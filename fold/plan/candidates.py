"""What could be folded: each set of activations whose removal merges layers into one, and what to measure for it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace

from torch import Tensor, fx, nn

from layer_folding.errors import InputError
from layer_folding.fit_choices import Choice, LayerShape

from ..algebra.layers import is_weighted
from ..fitting.parts import find_parts
from ..fitting.placing import place_all
from ..folding import Merge, describe_region
from ..graph.changes import add, addition
from ..graph.nodes import add_shapes, is_activation, target_of
from ..graph.tracing import trace
from ..regions.costs import MAX_GROWTH
from ..regions.finding import Region, hoisted_regions
from .fitted_shapes import fitted_parts, has_full_reach
from .naming import Segment, Segments
from .removals import removals
from .spans import Span, Spans


@dataclass(frozen=True)
class Alternative:
    """One layer in place of a candidate's layers: the ``segment`` to time, and the ``changes`` of the network for it.

    ``changes`` are activations to remove and what is added: what `fold.graph.changes.remove` takes. ``shape`` is that
    of a fitted layer (`layer_folding.fit_choices`), None for an exact merge. ``kernel`` is the one layer's, empty where
    none is left, and ``macs`` are the multiply-accumulates per image before and after. A layer without ``full_reach``
    has a smaller kernel than one of those that it replaces, or joins fewer channels.
    """

    segment: str
    changes: tuple[str, ...]
    kernel: tuple[int, ...]
    macs: tuple[int, int]
    shape: LayerShape | None = None
    full_reach: bool = True

    @property
    def choice(self) -> Choice | None:
        """What is fitted; None for an exact merge."""
        return None if self.shape is None else Choice(self.changes, self.shape)


@dataclass(frozen=True)
class Candidate:
    """Layers that could become one.

    ``merge`` says what an exact merge makes of them when its activations go and nothing else changes. ``occupies`` are
    numbers of layers and activations; candidates that share a number exclude each other. A plan takes at most one of
    the ``alternatives``. All are timed in the span around these layers, which takes ``input_shape`` (without the batch)
    and is the segment ``apart`` as it is in the network.
    """

    merge: Merge
    occupies: frozenset[int]
    apart: str
    input_shape: tuple[int, ...]
    alternatives: tuple[Alternative, ...]

    @property
    def exact(self) -> Alternative | None:
        """The one that is ``merge``; None where that takes too many multiply-accumulates."""
        first = self.alternatives[0]
        return first if first.shape is None else None


@dataclass(frozen=True)
class Candidates:
    """All candidates of a network in the order of its layers, ``whole``, the name of the segment that is all of it, the
    ``input_shape`` of that, and the number of its ``activations``."""

    found: tuple[Candidate, ...]
    whole: str
    input_shape: tuple[int, ...]
    activations: int


def candidates(model: nn.Module, example: Tensor, max_growth: float = MAX_GROWTH) -> Candidates:
    """What could be folded in ``model``, in the order of its layers. No weights are merged for it.

    Takes any network that ``torch.fx`` can trace, which is not modified, and one input batch `[batch, in, *spatial]`.
    A merge or a fit may take ``max_growth`` times the multiply-accumulates, not more.

    Raises:
        InputError: the network cannot be traced, does not accept ``example``, or its outputs depend on no layer.
    """
    return _survey(trace(model, example, share_weights=True), max_growth)[0]


def segments(model: nn.Module, example: Tensor, max_growth: float = MAX_GROWTH) -> Iterator[Segment]:
    """What to measure for a plan, the same work only once. Arguments and errors as of `candidates`."""
    yield from _survey(trace(model, example, share_weights=True), max_growth)[1]


def merges_of(
    model: nn.Module, example: Tensor, changes: Collection[str], fits: Iterable[Choice] = ()
) -> set[tuple[str, ...]]:
    """The layers of ``model`` that become one, for each merge that is made when ``fits`` and ``changes`` are.

    ``changes`` are activations that go, and additions. A layer that is fitted counts as those of its region. Arguments
    and errors as of `candidates`, `fold.graph.changes.add` and `fold.fitting.parts.find_parts`.
    """
    traced = trace(model, example, share_weights=True)
    order = [target_of(node) for node in traced.graph.nodes]
    parts = find_parts(traced, fits)
    fitted, placed = place_all(traced, parts)
    replaced = {each.name: _layers(part.region) for part, each in zip(parts, placed, strict=True)}
    changed = add(fitted, changes)
    add_shapes(changed, example)
    removed = [node for node in changed.graph.nodes if is_activation(node) and node.target in changes]
    merged = [region for region in hoisted_regions(changed, removed).found if region.removed or region.is_fitted]
    layers = [{path for name in _layers(region) for path in replaced.get(name, [name])} for region in merged]
    return {tuple(sorted(paths, key=order.index)) for paths in layers}


def _layers(region: Region) -> list[str]:
    return [target_of(node) for node in region.layers]


def _survey(traced: fx.GraphModule, max_growth: float) -> tuple[Candidates, Segments]:
    spans, named = Spans(traced), Segments(traced)
    whole = spans.whole()
    if not any(map(is_weighted, whole.nodes)):
        raise InputError("the outputs of the network depend on no layer with weights, so there is nothing to plan")
    of_network = named.apart(whole)
    linear = _read_linearly(traced)
    found = []
    for removal in removals(traced, max_growth):
        region, span = removal.region, spans.around(removal.region)
        exact = _exact(region, span, named, linear) if region.macs[1] <= max_growth * region.macs[0] else ()
        alternatives = *exact, *_fitted(region, span, named, max_growth)
        if alternatives:
            found.append(
                Candidate(describe_region(region), removal.occupies, named.apart(span), span.input_shape, alternatives)
            )
    activations = sum(is_activation(node) for node in traced.graph.nodes)
    return Candidates(tuple(found), of_network, whole.input_shape, activations), named


def _exact(region: Region, span: Span, named: Segments, linear: Collection[fx.Node]) -> Iterator[Alternative]:
    """The exact merge, and the same with an activation behind it where the original network has none."""
    removed = tuple(target_of(node) for node in region.removed)
    merged = Alternative(named.merged(region, span), removed, region.geometry.kernel, region.macs)
    yield merged
    if region.output in linear:
        added = (region.output, region.removed[-1])
        yield replace(merged, segment=named.merged(region, span, added), changes=(*removed, addition(*added)))


def _fitted(region: Region, span: Span, named: Segments, max_growth: float) -> Iterator[Alternative]:
    """One fitted layer, of each shape that is in question."""
    for part in fitted_parts(region, max_growth):
        kernel = part.crop.geometry.kernel if part.crop else ()
        segment = named.fitted(part, span)
        choice = part.choice
        yield Alternative(segment, choice.activations, kernel, part.macs, choice.shape, has_full_reach(part))


def _read_linearly(traced: fx.GraphModule) -> set[fx.Node]:
    """The values that reach weighted layers before they reach an activation or the end of the network."""
    found: set[fx.Node] = set()
    for node in reversed(traced.graph.nodes):
        if node.users and all(is_weighted(user) or (user in found and not is_activation(user)) for user in node.users):
            found.add(node)
    return found
