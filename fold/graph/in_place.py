"""In-place operations become ordinary ones: whoever reads the overwritten tensor later reads the result instead.

A tensor can have several names, such as that of the identity of it, and views, such as slices. Which names share
memory is found by running the graph as it was recorded, and looking at what each operation overwrites. A name for the
whole overwritten tensor is followed. A view of a part of it that is read later cannot be followed, and is refused.
Writing to a part, `x[i] = y`, becomes `with_item`, which gives another tensor.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from layer_folding.errors import InputError

from .comparing import tensors_in
from .foreign import branch_dropouts
from .nodes import describe, first_input, module_of

# What `x += 1` and the like are; fx records `x + 1`, which leaves other names of x with the old value.
AUGMENTED: dict[Callable[..., Any], Callable[..., Any]] = {
    operator.iadd: operator.add, operator.isub: operator.sub, operator.imul: operator.mul,
    operator.itruediv: operator.truediv, operator.ifloordiv: operator.floordiv, operator.imod: operator.mod,
    operator.ipow: operator.pow, operator.imatmul: operator.matmul, operator.iand: operator.and_,
    operator.ior: operator.or_, operator.ixor: operator.xor,
}  # fmt: skip


@dataclass(frozen=True)
class _Write:
    """``node`` overwrites a tensor: the earlier nodes that give the ``whole`` of it, and those that give ``parts``."""

    node: fx.Node
    whole: tuple[fx.Node, ...]
    parts: tuple[fx.Node, ...]


def make_ordinary(traced: fx.GraphModule, x: Tensor) -> None:
    """Replace the in-place operations of ``traced``, in place. ``x`` is an input that it accepts.

    Raises:
        InputError: an operation overwrites a tensor of which a part is read later, or a parameter.
    """
    watch = _Watch(traced)
    with torch.inference_mode(False), torch.no_grad():
        watch.run(x.clone())
    order = {node: i for i, node in enumerate(traced.graph.nodes)}
    for write in watch.writes:
        _follow(write, order)
    for node in traced.graph.nodes:
        _make_ordinary(node)
    for module in traced.modules():
        if getattr(module, "inplace", False):
            vars(module)["inplace"] = False


class _Watch(fx.Interpreter):
    """Runs a graph and notes what overwrites which values that are still to be read."""

    def __init__(self, traced: fx.GraphModule):
        super().__init__(traced)
        self.writes: list[_Write] = []

    def run_node(self, node: fx.Node) -> Any:
        before = {other: _versions(value) for other, value in self.env.items()}
        value = super().run_node(node)
        touched = [other for other in before if _versions(self.env[other]) != before[other]]
        x = first_input(node)
        if node.target is operator.setitem and x is not None:  # as `with_item` will
            value = self.env[x]
        if not touched and x is not None and _is_in_place(node) and value is self.env[x]:  # changes its shape only
            touched = [other for other in before if self.env[other] is value]
        if touched:
            whole = tuple(other for other in touched if _is_same_view(self.env[other], value))
            rest = [other for other in touched if other not in whole]
            self.writes.append(_Write(node, whole, tuple(n for n in rest if _may_overlap(self.env[n], value))))
        return value


def _follow(write: _Write, order: dict[fx.Node, int]) -> None:
    """Let those that read the overwritten tensor later read the result."""
    node = write.node

    def is_later(user: fx.Node) -> bool:
        return order[user] > order[node]

    def is_read_later(value: fx.Node) -> bool:
        return any(map(is_later, value.users))

    by_other_names = [other for other in write.whole if other is not first_input(node)]
    lost = [part for part in write.parts if is_read_later(part)]
    stored = _stored_back(node)
    base = None if stored is None else first_input(stored)
    if (
        stored is not None
        and base is not None
        and all(order[user] >= order[stored] for user in filter(is_later, base.users))
    ):
        lost = [part for part in lost if part is not base]  # who reads it later reads what was stored
    if any(map(_is_dropout, write.whole)):  # in training mode it gives another tensor, which is not overwritten
        lost += [other for other in by_other_names if is_read_later(other)]
    if not _can_be_ordinary(node):
        lost += [other for other in (*write.whole, *write.parts) if set(other.users) - {node, *write.whole}]
    lost += [other for other in (*write.whole, *write.parts) if other.op == "get_attr"]
    if lost:
        raise InputError(
            f"{describe(node)} overwrites its input, and {describe(lost[0])} shares memory with that and is read "
            "elsewhere; write out of place"
        )
    for other in write.whole:
        other.replace_all_uses_with(node, delete_user_cb=is_later)


def with_item(x: Tensor, index: Any, value: Any) -> Tensor:
    """What ``x`` is after ``x[index] = value``; ``x`` stays as it is."""
    x = x.clone()
    x[index] = value
    return x


def _stored_back(node: fx.Node) -> fx.Node | None:
    """Of `x[i] += 1`, where ``node`` is the sum, the node by which Python stores the sum in x."""
    view = first_input(node)
    if view is None or view.target is not operator.getitem:
        return None
    stores = (user for user in node.users if user.target is operator.setitem)
    return next((store for store in stores if store.args == (*view.args, node)), None)


def _make_ordinary(node: fx.Node) -> None:
    if node.op == "call_function" and node.target in AUGMENTED:
        node.target = AUGMENTED[node.target]
    elif node.target is operator.setitem:
        node.target = with_item
    elif node.op == "call_function" and node.kwargs.get("inplace"):
        node.kwargs = {**node.kwargs, "inplace": False}
    else:
        node.target = _out_of_place(node) or node.target


def _is_in_place(node: fx.Node) -> bool:
    return _out_of_place(node) is not None


def _can_be_ordinary(node: fx.Node) -> bool:
    """Whether ``node``, which overwrites its input, has an ordinary operation with the same result."""
    written = (*AUGMENTED, operator.setitem)
    by_option = node.op == "call_function" and bool(node.kwargs.get("inplace") or node.target in written)
    return by_option or _is_in_place(node) or bool(getattr(module_of(node), "inplace", False))


def _out_of_place(node: fx.Node) -> Callable[..., Any] | str | None:
    """The ordinary operation with the result of an in-place one (`add` for `add_`), None for any other."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if node.op not in ("call_function", "call_method") or not name.endswith("_") or name.endswith("__"):
        return None
    homes = (Tensor,) if node.op == "call_method" else (torch, F)
    ordinary = next((getattr(home, name[:-1]) for home in homes if hasattr(home, name[:-1])), None)
    if not callable(ordinary):
        return None
    return name[:-1] if node.op == "call_method" else ordinary


def _is_dropout(node: fx.Node) -> bool:
    """Whether ``node`` returns its input itself in eval mode, and something else in training mode."""
    kinds: tuple[type[nn.Module], ...] = (nn.modules.dropout._DropoutNd, *branch_dropouts())
    return isinstance(module_of(node), kinds) or "drop" in getattr(node.target, "__name__", "")


def _versions(value: object) -> tuple[int, ...]:
    """How often each tensor in ``value`` has been written to, under any of its names."""
    return tuple(0 if tensor.is_inference() else tensor._version for tensor in tensors_in(value))


def _is_same_view(a: object, b: object) -> bool:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor) or not _share_storage(a, b):
        return a is b
    return (a.storage_offset(), a.shape, a.stride(), a.dtype) == (b.storage_offset(), b.shape, b.stride(), b.dtype)


def _share_storage(a: Tensor, b: Tensor) -> bool:
    return a.untyped_storage()._cdata == b.untyped_storage()._cdata


def _may_overlap(value: object, written: object) -> bool:
    """Whether a tensor in ``value`` may share elements with ``written``, the result of what wrote to one of them."""
    if not isinstance(written, Tensor):
        return True
    return any(_overlap(tensor, written) for tensor in tensors_in(value))


def _overlap(a: Tensor, b: Tensor) -> bool:
    if not _share_storage(a, b) or a.dtype != b.dtype:
        return True  # what was written is not what was returned
    taken = torch.zeros(a.untyped_storage().nbytes() // a.element_size(), dtype=torch.bool)
    taken.as_strided(b.shape, b.stride(), b.storage_offset()).fill_(True)
    return bool(taken.as_strided(a.shape, a.stride(), a.storage_offset()).any())


def record_augmented(proxy: type[fx.Proxy]) -> None:
    """Let ``proxy`` record `x += 1`, `x[i] = y` and the like as what they are."""
    recorded: tuple[Callable[..., Any], ...] = (*AUGMENTED, operator.setitem)
    for function in recorded:
        setattr(proxy, f"__{function.__name__}__", _recorded(function))


def _recorded(function: Callable[..., Any]) -> Callable[..., fx.Proxy]:
    def record(self: fx.Proxy, *others: object) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", function, (self, *others), {})

    return record
