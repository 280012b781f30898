"""Two networks run side by side, from one fitted layer to the next, so that no layer runs twice for one image."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from ..graph.nodes import evaluate, tensor_of


class Running:
    """The values of a graph for batches of images, as far as it has run. What nothing reads any more is dropped.

    The graph may be changed where it has not run yet. Modules run in the mode that they are in.
    """

    def __init__(self, traced: fx.GraphModule, batches: list[dict[fx.Node, Any]], done: set[fx.Node]):
        self.traced, self.batches, self._done = traced, batches, done
        self._held: fx.Node | None = None

    @classmethod
    def of(cls, traced: fx.GraphModule, images: Collection[Tensor]) -> Running:
        """``traced`` before its first layer, with one batch of images after the other."""
        start = next(node for node in traced.graph.nodes if node.op == "placeholder")
        return cls(traced, [{start: x} for x in images], {start})

    def fork(self, traced: fx.GraphModule, nodes: Mapping[fx.Node, fx.Node]) -> Running:
        """A copy of the graph, as far as this one has run; ``nodes`` says which node became which."""
        batches = [{nodes[node]: value for node, value in values.items()} for values in self.batches]
        return Running(traced, batches, {nodes[node] for node in self._done})

    def behind(self, first: int) -> Running:
        """The same network for the batches from number ``first`` on, as far as this one has run."""
        return Running(self.traced, self.batches[first:], set(self._done))

    @torch.no_grad()
    def until(self, end: fx.Node, keep: Collection[fx.Node] = ()) -> Iterator[Mapping[fx.Node, Any]]:
        """Run up to ``end``, one batch after the other; gives the values of each when it is there.

        While a batch is given, the values of ``keep`` are there, too.
        """
        todo = self._needed(end)
        self._done.update(todo)
        for values in self.batches:
            left = set(todo)
            for node in todo:
                values[node] = tensor_of(node) if node.op == "get_attr" else evaluate(node, values)
                left.discard(node)
                for x in node.all_input_nodes:
                    if x not in keep and x is not self._held and not self._is_to_be_read(x, left):
                        values.pop(x, None)
            yield values
            for node in keep:
                if not self._is_to_be_read(node):
                    values.pop(node, None)

    def _is_to_be_read(self, node: fx.Node, left: Collection[fx.Node] = ()) -> bool:
        """Whether a node that reads ``node`` has yet to run; those in ``left`` have yet to."""
        return any(user in left or user not in self._done for user in node.users)

    def _needed(self, end: fx.Node) -> list[fx.Node]:
        """The nodes that have yet to run for the value of ``end``, in graph order."""
        found: set[fx.Node] = set()
        queue = [end]
        while queue:
            node = queue.pop()
            if node not in found and node not in self._done:
                found.add(node)
                queue.extend(node.all_input_nodes)
        return [node for node in self.traced.graph.nodes if node in found]

    def hold(self, node: fx.Node) -> None:
        """Run up to ``node``, and keep its value until another one is held, whatever reads it."""
        self.to(node)
        before, self._held = self._held, node
        if before is not None and not self._is_to_be_read(before):
            self.forget([before])

    def to(self, end: fx.Node) -> None:
        """Run up to ``end``."""
        for _ in self.until(end):
            pass

    def forget(self, nodes: Collection[fx.Node]) -> None:
        """Drop the values of ``nodes``, which are no longer in the graph."""
        for values in self.batches:
            for node in nodes:
                values.pop(node, None)
