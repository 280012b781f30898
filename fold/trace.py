"""From a module to a graph that is safe to edit: `torch.fx` records the calls, `fold.canonical` cleans the record."""

from __future__ import annotations

import copy
import operator
from collections import Counter
from collections.abc import Callable, Collection

from torch import Tensor, fx, nn

from fold.canonical import canonicalise
from fold.errors import InputError
from fold.foreign import is_foreign_leaf, leaf_functions
from fold.graph import AVERAGES, Elementwise, Opaque, add_shapes, first_line, module_of

Activation = type[nn.Module] | Callable[[Tensor], Tensor]


def trace(
    model: nn.Module,
    example: Tensor,
    activations: Collection[Activation] = (),
    average_pooling: bool = False,
    share_weights: bool = False,
) -> fx.GraphModule:
    """A copy of ``model`` as a graph, with the shape of every value in ``node.meta["shape"]``.

    Every activation is a module of its own in it, used at one place; nothing is in place; see `fold.canonical`.
    ``torch.fx`` takes the path that the code takes in eval mode, and does not see that tensors share memory: writing
    to a view, or ``+=`` to a tensor that is read again under another name, gives another function. `fold.fold` finds
    that out.

    Args:
        model: any module that ``torch.fx`` can trace; it is not modified.
        example: one input batch `[batch, in, *spatial]`; only its shape, dtype and device matter.
        activations: elementwise functions and module classes that count as activations too, such as a custom Swish.
            A function is recognised where a ``forward`` calls it by a global name.
        average_pooling: take average poolings for the convolutions that they are, so that they merge with others.
        share_weights: do not copy parameters and buffers, for a graph that is only looked at.

    Raises:
        InputError: the module cannot be traced, or does not accept ``example``.
    """
    modes = {name: module.training for name, module in model.named_modules()}
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers()) if share_weights}
    model = copy.deepcopy(model, shared).eval()  # eval: running the example must not move BatchNorm's statistics
    classes = tuple(a for a in activations if isinstance(a, type))
    functions = tuple(a for a in activations if not isinstance(a, type))
    for module in model.modules():
        if isinstance(module, classes):
            module.is_activation = True
    try:
        graph = _Tracer(functions).trace(model)
    except Exception as error:  # fx raises whatever the model's own code raises on a proxy
        raise InputError(
            f"{type(model).__name__} cannot be traced by torch.fx ({first_line(error)}); "
            "pass the traceable part of it, for example its backbone"
        ) from error
    traced = fx.GraphModule(model, graph, class_name=type(model).__name__)
    canonicalise(traced, example, {function: lambda f=function: Elementwise(f) for function in functions})
    for module in traced.modules():
        if isinstance(module, AVERAGES) and average_pooling:
            module.as_convolution = True
    _mark_shared(traced)
    add_shapes(traced, example)
    for name, module in traced.named_modules():
        module.training = modes.get(name, modes[""])
    return traced


class _Tracer(fx.Tracer):
    def __init__(self, functions: tuple[Callable, ...] = ()):
        super().__init__(autowrap_functions=(*leaf_functions(), *functions))

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        # a subclass of a layer of torch.nn that only adds to its constructor is that layer
        inherits = type(module).forward in _LAYER_FORWARDS
        marked = isinstance(module, Opaque) or getattr(module, "is_activation", False)
        return inherits or marked or is_foreign_leaf(module) or super().is_leaf_module(module, name)


_LAYER_FORWARDS = {
    kind.forward
    for kind in vars(nn).values()
    if isinstance(kind, type) and issubclass(kind, nn.Module) and not issubclass(kind, nn.Sequential)
} - {nn.Module.forward}  # fmt: skip


def _mark_shared(traced: fx.GraphModule) -> None:
    """Note in ``node.meta["shared"]`` which calls use weights that another call, or the code itself, uses too."""
    weights, uses = {}, Counter()
    for node in traced.graph.nodes:
        if node.op == "call_module":
            weights[node] = {id(p) for p in module_of(node).parameters()}
            uses.update(weights[node])
        elif node.op == "get_attr":  # one node for all places that read it
            weights[node] = {id(operator.attrgetter(node.target)(traced))}
            uses.update(dict.fromkeys(weights[node], len(node.users)))
    for node, used in weights.items():
        node.meta["shared"] = any(uses[weight] > 1 for weight in used)
