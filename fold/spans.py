"""Parts of a graph that begin and end with one tensor: what a candidate is measured in.

A merged layer is compared with the layers that it replaces inside the same span, so what a runtime does at the ends of
a network that is so small (copies, changes of layout, its own overhead) is the same for both and cancels.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import fx, nn

from fold.added import add, addition
from fold.checkpoint import remove
from fold.errors import InputError
from fold.graph import is_activation, module_of
from fold.padding import hoist_padding
from fold.regions import Region, find_regions
from fold.rewrite import merge
from fold.trace import trace


@dataclass(frozen=True)
class Span:
    """What a graph does between the value ``start`` and the value ``end``, through which everything goes."""

    start: fx.Node
    end: fx.Node
    nodes: tuple[fx.Node, ...]  # in graph order, ``end`` included, ``start`` not

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one image, without the batch."""
        return self.start.meta["shape"][1:]

    def signature(self, removed: tuple[fx.Node, ...] = (), added: tuple[fx.Node, ...] = ()) -> tuple:
        """The same for spans that do the same, `folded` or as they are, with tensors of the same shapes, whatever their
        weights are."""
        number = {node: i for i, node in enumerate((self.start, *self.nodes))}

        def argument(x: fx.Node) -> object:
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
        graph.output(copies[self.end])
        return fx.GraphModule(self.start.graph.owning_module, graph).eval()

    def folded(self, removed: tuple[fx.Node, ...], added: tuple[fx.Node, ...] = ()) -> nn.Module:
        """The same with the activations ``removed`` gone, its padding hoisted and its layers merged.

        ``added`` is empty, or a value and the activation of which a copy comes to stand behind it (`fold.added`).
        Only the shapes are merged; the weights are those of a fresh network, since no time depends on them.
        """
        example = torch.zeros(2, *self.input_shape, device="meta")
        module = add(self.module(), [addition(*added)] if added else [])
        bare = remove(trace(copy.deepcopy(module).to("meta"), example), [node.target for node in removed])
        hoisted = trace(hoist_padding(bare, example)[0], example)
        return _fresh(merge(hoisted, find_regions(hoisted)[0])[0]).eval()


class Spans:
    """The spans of a graph from `fold.trace.trace`. Raises InputError where it does not end with one tensor."""

    def __init__(self, traced: fx.GraphModule):
        self._nodes = [node for node in traced.graph.nodes if node.op != "output"]
        self._order = {node: i for i, node in enumerate(self._nodes)}
        result = traced.graph.output_node().args[0]
        if not isinstance(result, fx.Node):
            raise InputError("the network gives more than one tensor; plan the part of it that gives one")
        last = {node: max((self._order.get(u, len(self._nodes)) for u in node.users), default=i) for i, node in
                enumerate(self._nodes)}  # fmt: skip
        self._stations, open_until = [], -1
        for i, node in enumerate(self._nodes):
            if node.op == "get_attr":
                continue
            if open_until <= i and isinstance(node.meta.get("shape"), tuple):
                self._stations.append(node)
            open_until = max(open_until, last[node])

    def around(self, region: Region) -> Span:
        """The smallest span that holds ``region``, and the activation right behind it, which runtimes merge with it."""
        first, behind = self._order[region.anchor], self._order[region.output]
        start = next(node for node in reversed(self._stations) if self._order[node] <= first)
        end = next(node for node in self._stations if self._order[node] >= behind)
        (*_, reader) = end.users
        return self._span(start, reader if len(end.users) == 1 and is_activation(reader) else end)

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


def _fresh(model: nn.Module) -> nn.Module:
    """``model`` from the meta device, with the weights that its layers begin with."""
    model.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.zero_()
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return model
