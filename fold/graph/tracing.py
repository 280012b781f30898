"""From a module to a graph that is safe to edit: `torch.fx` records the calls, `canonical` cleans the record."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Collection
from functools import partial

from torch import Tensor, fx, nn

from .alongside import ExampleTracer, GraphTracer
from .baked import record, require_size
from .canonical import canonicalise
from .comparing import random_output, require_same_function
from .foreign import is_foreign_leaf, leaf_functions, require_unwrapped
from .kept import note_kept
from .nodes import (
    AVERAGES,
    Elementwise,
    Opaque,
    add_shapes,
    is_marked,
    mark,
    parameters_of,
    target_of,
)
from .noted_fits import fits_of, note_fits
from .preparing import patches, private_copy, strip

Activation = type[nn.Module] | Callable[[Tensor], Tensor]


def trace(
    model: nn.Module,
    example: Tensor,
    *,
    activations: Collection[Activation] = (),
    average_pooling: bool = False,
    share_weights: bool = False,
) -> fx.GraphModule:
    """A copy of ``model`` as a graph, with the shape of every value in ``node.meta["shape"]``.

    Every activation is a module of its own in it, used at one place; nothing is in place, and no weight is computed
    from others; see `fold.graph.canonical` and `fold.graph.preparing`. ``torch.fx`` takes the path that the code takes
    in eval mode. The graph is compared with ``model`` on random values, to find what ``torch.fx`` does not see.

    Args:
        model: any module that ``torch.fx`` can trace; it is not modified.
        example: one input batch `[batch, in, *spatial]`; only its shape, dtype and device matter. On the meta device
            nothing is compared.
        activations: elementwise functions and module classes that count as activations too, such as a custom Swish.
            A function is recognised where a ``forward`` calls it by a global name.
        average_pooling: take average poolings for the convolutions that they are, so that they merge with others.
        share_weights: do not copy parameters and buffers, for a graph that is only looked at.

    Raises:
        InputError: the module cannot be traced, does not accept ``example``, or computes something else than its graph.
    """
    require_unwrapped(model)
    modes = {name: module.training for name, module in model.named_modules()}
    # a copy of its own, since a network may keep what it computes, such as the anchors for the size of an image
    expected = random_output(private_copy(model, share_weights=True), example)
    network = private_copy(model, share_weights=share_weights)
    patched = list(patches(network))
    traced = _record(network, example, activations)
    canonicalise(traced, example, {function: partial(Elementwise, function) for function in _functions(activations)})
    for module in traced.modules():
        if isinstance(module, AVERAGES) and average_pooling:
            mark(module, "as_convolution")
    _mark_shared(traced)
    actual = random_output(partial(add_shapes, traced), example)
    require_same_function(traced, actual, expected, example, patched)
    for name, module in traced.named_modules():
        module.training = modes.get(name, modes[""])
    note_fits(traced, fits_of(model))
    return traced


def _record(network: nn.Module, example: Tensor, activations: Collection[Activation]) -> fx.GraphModule:
    """The calls that ``network`` makes, as a graph, as they are."""
    classes = tuple(a for a in activations if isinstance(a, type))
    for module in network.modules():
        if isinstance(module, classes):
            mark(module, "is_activation")
    recorded = record(network, example, partial(_Tracer, functions=_functions(activations)))
    for node in recorded.graph.nodes:
        if node.op == "call_module" and node.target not in recorded.kept:
            strip(network.get_submodule(node.target))
    recorded.graph._tracer_cls = GraphTracer
    traced = fx.GraphModule(network, recorded.graph, class_name=type(network).__name__)
    note_kept(traced, recorded.kept)
    require_size(traced, example, recorded.baked)
    return traced


def _functions(activations: Collection[Activation]) -> tuple[Callable[[Tensor], Tensor], ...]:
    return tuple(a for a in activations if not isinstance(a, type))


class _Tracer(ExampleTracer):
    def __init__(self, example: Tensor, functions: tuple[Callable, ...] = ()):
        super().__init__(example, (*leaf_functions(), *functions))

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        # a subclass of a layer of torch.nn that only adds to its constructor is that layer
        inherits = type(module).forward in _LAYER_FORWARDS
        marked = isinstance(module, Opaque) or is_marked(module, "is_activation")
        return inherits or marked or is_foreign_leaf(module) or super().is_leaf_module(module, name)


_LAYER_FORWARDS = {
    kind.forward
    for kind in vars(nn).values()
    if isinstance(kind, type) and issubclass(kind, nn.Module) and not issubclass(kind, nn.Sequential)
} - {nn.Module.forward}  # fmt: skip


def _mark_shared(traced: fx.GraphModule) -> None:
    """Note in ``node.meta["shared"]`` which calls use weights that another call, or the code itself, uses too."""
    weights: dict[fx.Node, set[int]] = {}
    uses: Counter[int] = Counter()
    for node in traced.graph.nodes:
        if node.op == "call_module":
            weights[node] = {id(p) for p in parameters_of(node)}
            uses.update(weights[node])
        elif node.op == "get_attr":  # one node for all places that read it
            weights[node] = {id(operator.attrgetter(target_of(node))(traced))}
            uses.update(dict.fromkeys(weights[node], len(node.users)))
    for node, used in weights.items():
        node.meta["shared"] = any(uses[weight] > 1 for weight in used)
