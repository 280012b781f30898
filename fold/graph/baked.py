"""Which sizes of the example are baked into a graph, and the check that an input has them.

Code that asks about sizes takes one path, and may compute constants from them. Such a network is recorded once more,
with another size on every axis of the input. Where the graph is another one, each axis is tried alone: its size is
baked where the graph changes with it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from layer_folding.errors import InputError

from .alongside import ExampleTracer, ValueNeeded
from .comparing import relative
from .nodes import Opaque, add_module, first_line

# A size that networks accept which halve the image up to five times: further apart than any kernel is wide.
_MORE = 32


@dataclass(frozen=True)
class Recorded:
    """What was recorded of a network: the ``graph``, the modules ``kept`` whole, and the ``baked`` axes."""

    graph: fx.Graph
    kept: dict[str, str]
    baked: tuple[int, ...]


class SizeCheck(Opaque):
    """Raises InputError for an input that has another size than the example on one of the axes in ``sizes``."""

    _is_impure = True  # nothing reads its result, and it is no dead code

    def __init__(self, sizes: dict[int, int]):
        super().__init__()
        self.sizes = sizes

    def forward(self, x: Tensor) -> None:
        if torch.compiler.is_exporting():  # the file is for the size of the example
            return
        found = {axis: x.shape[axis] for axis in self.sizes}
        if found != self.sizes:
            raise InputError(
                f"the input is {list(x.shape)}, and the code of the network asks about sizes: it was traced for "
                f"{self.extra_repr()}; trace it again with an example of this size"
            )

    def extra_repr(self) -> str:
        return ", ".join(f"{size} on axis {axis}" for axis, size in self.sizes.items())


def record(network: nn.Module, example: Tensor, tracer: Callable[[Tensor], ExampleTracer]) -> Recorded:
    """Record ``network`` for ``example``.

    Raises:
        InputError: the network asks for the value of a tensor, or its own code fails.
    """
    first = tracer(example)
    try:
        graph = first.trace(network)
    except ValueNeeded as error:
        raise InputError(
            f"{type(network).__name__} cannot be traced: {error}; compute it by operations on tensors, or make this "
            "code a module of its own, which then stays whole"
        ) from error
    except Exception as error:  # whatever the code of the network raises on a stand-in
        raise InputError(
            f"{type(network).__name__} cannot be traced by torch.fx ({first_line(error)}); "
            "pass the traceable part of it, for example its backbone"
        ) from error
    is_baked = partial(_is_baked, network, graph, example, tracer)
    axes = tuple(axis for axis in range(example.ndim) if axis != 1)
    baked = tuple(axis for axis in axes if is_baked((axis,))) if first.asked and is_baked(axes) else ()
    return Recorded(graph, first.kept, baked)


def require_size(traced: fx.GraphModule, example: Tensor, baked: Sequence[int]) -> None:
    """Let ``traced`` check, whenever it runs, that its input has the size of ``example`` on the axes ``baked``."""
    if not baked:
        return
    (x,) = (node for node in traced.graph.nodes if node.op == "placeholder")
    check = SizeCheck({axis: example.shape[axis] for axis in baked})
    with traced.graph.inserting_after(x):
        traced.graph.call_module(add_module(traced, "size_check", check), (x,))
    traced.recompile()


def _is_baked(
    network: nn.Module,
    graph: fx.Graph,
    example: Tensor,
    tracer: Callable[[Tensor], ExampleTracer],
    axes: tuple[int, ...],
) -> bool:
    """Whether other sizes on ``axes`` give another graph."""
    sizes = [size + (_MORE if axis else 1) * (axis in axes) for axis, size in enumerate(example.shape)]
    try:
        other = tracer(example.new_zeros(sizes)).trace(network)
    except Exception:  # it takes no other size there
        return True
    return not _same(network, graph, other)


def _same(network: nn.Module, one: fx.Graph, other: fx.Graph) -> bool:
    """Whether two graphs make the same calls, with the same constants."""
    calls = [list(_calls(graph)) for graph in (one, other)]
    pairs = zip(*calls, strict=False)
    return len(calls[0]) == len(calls[1]) and all(_same_call(network, a, b) for a, b in pairs)


def _calls(graph: fx.Graph) -> Iterator[tuple[str, Any, str]]:
    """Each call: of what kind, of what, and its arguments, in which values of the graph are numbered."""
    numbers = {node: number for number, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        yield node.op, node.target, str(fx.node.map_arg([node.args, node.kwargs], lambda each: f"%{numbers[each]}"))


def _same_call(network: nn.Module, a: tuple[str, Any, str], b: tuple[str, Any, str]) -> bool:
    if (a[0], a[2]) != (b[0], b[2]):
        return False
    return a[1] == b[1] if a[0] != "get_attr" else _same_constant(network, a[1], b[1])


def _same_constant(network: nn.Module, a: str, b: str) -> bool:
    """The constants of a second graph have other names."""
    if a == b:
        return True
    read = operator.attrgetter(a, b)
    return relative(*read(network)) == 0
