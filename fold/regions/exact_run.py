"""Run graphs and regions in float64, one layer at a time: the whole network never exists in float64."""

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import chain

import torch
from torch import Tensor, fx, nn
from torch.fx.node import Target

from layer_folding.errors import InputError

from ..graph.nodes import describe, evaluate, first_line, module_of, tensor_of
from .finding import Region

Weights = Callable[[str], "dict[str, Tensor] | None"]


def run(
    traced: fx.GraphModule, x: Tensor, keep: Collection[fx.Node] = (), weights: Weights = lambda path: None
) -> tuple[object, dict[fx.Node, Tensor]]:
    """The output of the graph for ``x`` (float64), and the values of the nodes in ``keep``.

    ``weights`` gives the parameters of a module by its path, in float64, where they are not its own. Raises InputError
    where a node does not run in float64.
    """
    interpreter = _Exact(traced, keep, weights)
    return interpreter.run(x), interpreter.kept


def run_region(region: Region, x: Tensor) -> Tensor:
    """The output of ``region`` where its anchor is ``x`` (float64), layer by layer."""
    values: dict[fx.Node, Tensor] = {region.anchor: x}
    for node in region.nodes:
        constants = {read: tensor_of(read) for read in node.all_input_nodes if read not in values}
        values |= {read: value.double() for read, value in constants.items() if value is not None}
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
    def __init__(self, traced: fx.GraphModule, keep: Collection[fx.Node], weights: Weights):
        super().__init__(traced)
        self.extra_traceback = False  # it would end up in the message of an error
        self.keep, self.weights = keep, weights
        self.kept: dict[fx.Node, Tensor] = {}

    def run_node(self, node: fx.Node) -> object:
        try:
            value = super().run_node(node)
        except RuntimeError as error:  # such as layers for quantisation-aware training
            raise InputError(
                f"{describe(node)} does not run in float64, in which folding is checked ({first_line(error)}); "
                "fold the network before it gets such layers"
            ) from error
        if node in self.keep:
            self.kept[node] = value
        return value

    def call_module(self, target: Target, args: tuple, kwargs: dict) -> object:
        return _in_float64(self.fetch_attr(str(target)), self.weights(str(target)))(*args, **kwargs)

    def get_attr(self, target: Target, args: tuple, kwargs: dict) -> object:
        value = super().get_attr(target, args, kwargs)
        return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
