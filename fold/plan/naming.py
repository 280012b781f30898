"""The segments of a network, under their names: what to time for a plan, the same work only once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import fx, nn

from layer_folding.fit_choices import MERGED as MERGED_KERNEL
from layer_folding.segment_names import ACTIVE, APART, MERGED, fitted, segment_name

from ..algebra.layers import is_weighted
from ..fitting.parts import Part
from ..graph.nodes import calls_function, module_of
from ..regions.finding import Region
from .spans import Span

_PICKING = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.Flatten, nn.Dropout, nn.Identity)


@dataclass(frozen=True)
class Segment:
    """A network of a few layers to time: its ``name`` and ``module``, and its ``input_shape`` without the batch.

    Where it ``feeds_layer``, its output goes into a layer with weights of the network, unchanged but for what picks and
    moves values. An int8 network quantises such a value.
    """

    name: str
    module: fx.GraphModule
    input_shape: tuple[int, ...]
    feeds_layer: bool = False


class Segments:
    """Gives the segments of a graph their names (`layer_folding.segment_names`), the same to those that are the same.

    Going through it builds each segment's module when it is its turn.
    """

    def __init__(self, traced: fx.GraphModule):
        self._layers = [node for node in traced.graph.nodes if is_weighted(node)]
        self._names: dict[tuple[str, object], str] = {}
        self._builders: dict[str, tuple[Callable[[], fx.GraphModule], tuple[int, ...], bool]] = {}

    def apart(self, span: Span) -> str:
        """The name of ``span`` as it is in the network."""
        return self._named(APART, span.nodes, span, span.signature(), span.module)

    def merged(self, region: Region, span: Span, added: tuple[fx.Node, ...] = ()) -> str:
        """The name of ``span`` with ``region`` merged, and an activation ``added`` behind it (`Span.folded`)."""
        signature = span.signature(region.removed, added)
        build = partial(span.folded, region.removed, added)
        return self._named(ACTIVE if added else MERGED, region.layers, span, signature, build)

    def fitted(self, part: Part, span: Span) -> str:
        """The name of ``span`` with the layer of ``part`` fitted (`Span.fitted`).

        With the kernel of the exact merge that is the same work, and has its name.
        """
        region, shape = part.region, part.choice.shape
        if shape == MERGED_KERNEL and part.merged.groups == region.geometry.groups:
            return self.merged(region, span)
        build = partial(span.fitted, part.choice)
        return self._named(fitted(shape), region.layers, span, span.signature(region.removed), build)

    def __iter__(self) -> Iterator[Segment]:
        return (Segment(name, build(), shape, feeds) for name, (build, shape, feeds) in self._builders.items())

    def _named(
        self, kind: str, nodes: Collection[fx.Node], span: Span, signature: object, build: Callable[[], fx.GraphModule]
    ) -> str:
        if (kind, signature) not in self._names:
            numbers = [i for i, layer in enumerate(self._layers) if layer in nodes]
            name = segment_name(kind, numbers[0], numbers[-1] + 1, self._builders)
            self._names[kind, signature] = name
            self._builders[name] = build, span.input_shape, _feeds_layer(span.end)
        return self._names[kind, signature]


def _feeds_layer(value: fx.Node) -> bool:
    return any(is_weighted(user) or (_picks_values(user) and _feeds_layer(user)) for user in value.users)


def _picks_values(node: fx.Node) -> bool:
    return isinstance(module_of(node), _PICKING) or calls_function(node, torch.flatten, "flatten")
