"""Run graphs and regions in float64, one layer at a time: the whole network never exists in float64."""

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import chain

import torch
from torch import Tensor, fx, nn

from fold.graph import evaluate, module_of, tensor_of
from fold.regions import Region

Weights = Callable[[str], "dict[str, Tensor] | None"]


def run(
    traced: fx.GraphModule, x: Tensor, keep: Collection[fx.Node] = (), weights: Weights = lambda path: None
) -> tuple[object, dict[fx.Node, Tensor]]:
    """The output of the graph for ``x`` (float64), and the values of the nodes in ``keep``.

    ``weights`` gives the parameters of a module by its path, in float64, where they are not its own.
    """
    interpreter = _Exact(traced, keep, weights)
    return interpreter.run(x), interpreter.kept


def run_region(region: Region, x: Tensor) -> Tensor:
    """The output of ``region`` where its anchor is ``x`` (float64), layer by layer."""
    values: dict[fx.Node, Tensor] = {region.anchor: x}
    for node in region.nodes:
        values |= {read: tensor_of(read).double() for read in node.all_input_nodes if read not in values}
        module = module_of(node)
        values[node] = evaluate(node, values, None if module is None else _in_float64(module))
    return values[region.output]


def _in_float64(module: nn.Module, weights: dict[str, Tensor] | None = None) -> Callable[..., object]:
    """``module`` as a function that runs in float64: with ``weights``, or its own, converted for the time of a call."""

    def call(*args: object, **kwargs: object) -> object:
        tensors = chain(module.named_parameters(), module.named_buffers())
        exact = weights or {name: tensor.double() for name, tensor in tensors if tensor.is_floating_point()}
        return torch.func.functional_call(module, exact, args, kwargs)

    return call


class _Exact(fx.Interpreter):
    extra_traceback = False  # it would end up in the message of an error

    def __init__(self, traced: fx.GraphModule, keep: Collection[fx.Node], weights: Weights):
        super().__init__(traced)
        self.keep, self.kept, self.weights = keep, {}, weights

    def run_node(self, node: fx.Node) -> object:
        value = super().run_node(node)
        if node in self.keep:
            self.kept[node] = value
        return value

    def call_module(self, target: str, args: tuple, kwargs: dict) -> object:
        return _in_float64(self.fetch_attr(target), self.weights(target))(*args, **kwargs)

    def get_attr(self, target: str, args: tuple, kwargs: dict) -> object:
        value = super().get_attr(target, args, kwargs)
        return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
