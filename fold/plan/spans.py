"""Parts of a graph that begin with one tensor, and end with one or with all outputs: what a candidate is measured in.

A merged layer is compared with the layers that it replaces inside the same span, so what a runtime does at the ends of
a network that is so small (copies, changes of layout, its own overhead) is the same for both and cancels.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from layer_folding.fit_choices import Choice

from ..fitting.parts import find_parts
from ..fitting.placing import place_all
from ..graph.changes import add, addition, remove
from ..graph.nodes import is_activation, module_of, target_of
from ..graph.tracing import trace
from ..merge.rewriting import merge
from ..regions.finding import Region, exact_regions
from ..regions.padding import hoist_padding
from .stations import stations


@dataclass(frozen=True)
class Span:
    """What a graph does between the value ``start`` and the value ``end``, through which everything goes.

    ``end`` is the output node of a graph that gives more than one tensor, where its outputs have parted.
    """

    start: fx.Node
    end: fx.Node
    nodes: tuple[fx.Node, ...]  # in graph order, ``end`` included, ``start`` not

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one image, without the batch."""
        return self.start.meta["shape"][1:]

    def signature(self, removed: tuple[fx.Node, ...] = (), added: tuple[fx.Node, ...] = ()) -> object:
        """The same for spans that do the same, `folded` or as they are, with tensors of the same shapes, whatever their
        weights are."""
        number = {node: i for i, node in enumerate((self.start, *self.nodes))}

        def argument(x: fx.Node) -> Any:
            return number.get(x, x.target)

        return self.input_shape, tuple(
            (
                node in removed,
                node in added,
                repr(module_of(node)) if node.op == "call_module" else str(node.target),
                repr(fx.node.map_arg((node.args, node.kwargs), argument)),
            )
            for node in self.nodes
        )

    def module(self) -> fx.GraphModule:
        """This part of the network, as a network; it shares its weights."""
        graph = fx.Graph()
        copies = {self.start: graph.placeholder("x")}
        for node in self.nodes:
            copies[node] = graph.node_copy(node, copies.__getitem__)
        if self.end.op != "output":
            graph.output(copies[self.end])
        owner = self.start.graph.owning_module
        assert owner is not None  # a traced graph belongs to its module
        return fx.GraphModule(owner, graph).eval()

    def folded(self, removed: tuple[fx.Node, ...], added: tuple[fx.Node, ...] = ()) -> fx.GraphModule:
        """The same with the activations ``removed`` gone, its padding hoisted and its layers merged.

        ``added`` is empty, or a value and the activation of which a copy comes to stand behind it (`changes`).
        Only the shapes are merged; the weights are those of a fresh network, since no time depends on them.
        """
        module = add(self.module(), [addition(*added)] if added else [])
        return self._merged(remove(self._without_weights(module), [target_of(node) for node in removed]))

    def fitted(self, choice: Choice) -> fx.GraphModule:
        """The same with a layer fitted as ``choice`` says, then merged with what is exact around it; weights as above.

        The BatchNorm of the layer merges, and so do skips, as they do when the network is folded.
        """
        traced = self._without_weights(self.module())
        return self._merged(place_all(traced, find_parts(traced, [choice]))[0])

    @property
    def _example(self) -> Tensor:
        return torch.zeros(2, *self.input_shape, device="meta")

    def _without_weights(self, module: nn.Module) -> fx.GraphModule:
        return trace(copy.deepcopy(module).to("meta"), self._example)

    def _merged(self, changed: nn.Module) -> fx.GraphModule:
        hoisted = trace(hoist_padding(changed, self._example)[0], self._example)
        return _fresh(merge(hoisted, exact_regions(hoisted).found)[0])


class Spans:
    """The spans of a graph from `fold.graph.tracing.trace`."""

    def __init__(self, traced: fx.GraphModule):
        self._nodes = list(traced.graph.nodes)
        self._order = {node: i for i, node in enumerate(self._nodes)}
        self._stations = stations(traced)
        output = traced.graph.output_node()
        given = (output, *output.all_input_nodes)[-1]  # a constant has none
        tensors = (output if isinstance(given.meta.get("shape"), tuple) else given).all_input_nodes
        if tensors != [self._stations[-1]]:  # one tensor in a container is that tensor
            self._stations.append(output)

    def around(self, region: Region) -> Span:
        """The smallest span that holds ``region``, and the activation right behind it, which runtimes merge with it."""
        first, behind = self._order[region.anchor], self._order[region.output]
        start = next(node for node in reversed(self._stations) if self._order[node] <= first)
        end = next(node for node in self._stations if self._order[node] >= behind)
        readers = [*end.users]
        return self._span(start, readers[0] if len(readers) == 1 and is_activation(readers[0]) else end)

    def whole(self) -> Span:
        """The network."""
        return self._span(self._stations[0], self._stations[-1])

    def _span(self, start: fx.Node, end: fx.Node) -> Span:
        first, last = self._order[start], self._order[end]
        reads, needed = {end}, []
        for node in reversed(self._nodes[: last + 1]):
            if node in reads and node is not start:
                needed.append(node)
                reads.update(node.all_input_nodes)
        assert all(self._order[node] > first or node.op == "get_attr" for node in needed)
        return Span(start, end, tuple(reversed(needed)))


def _fresh(model: fx.GraphModule) -> fx.GraphModule:
    """``model`` from the meta device, with the weights that its layers begin with."""
    model.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.zero_()
    for module in model.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
    return model.eval()
