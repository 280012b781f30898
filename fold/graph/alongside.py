"""A tracer that computes what it records: each stand-in knows its value for the example.

So code may ask about sizes: `if x.shape[2] > 7`, `for part in x.chunk(2)`, `int(h / 2)`, `assert c == self.channels`.
Such questions are answered from the example and noted, since another image size may have another answer (`baked`).
What depends on the values of a tensor cannot be known before a network runs, and is refused with the line that asks.

`torch.export` answers the same questions, but gives a graph of operators, in which modules, and so the names of
activations and the layers of a network, have to be found again.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import operator
import os
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar
from unittest import mock

import torch
from torch import Tensor, fx, nn

from layer_folding.errors import InputError

from .comparing import tensors_in
from .in_place import record_augmented
from .nodes import first_line

T = TypeVar("T")

# What a tensor says of itself whatever its values are.
_OF_SIZES = {
    "size", "dim", "ndimension", "numel", "nelement", "stride", "element_size", "storage_offset", "get_device", "type",
    "is_floating_point", "is_complex", "is_contiguous", "is_signed", "__len__",
}  # fmt: skip
# Functions of numbers alone, which torch does not let a stand-in for a number into.
_FACTORIES = ("arange", "empty", "eye", "full", "linspace", "ones", "tensor", "zeros")
_SKIPPED = (os.path.dirname(torch.__file__), os.path.dirname(__file__))  # whose frames are not the user's code


class ValueNeeded(InputError):
    """Code asks for the value of a tensor, at a line that the message names."""


class StandIn(fx.Proxy):
    """A value that is being recorded, and what it is for the example."""

    tracer: ExampleTracer
    value: Any = None
    of_values: bool = False  # it is a number that depends on the values of a tensor

    def __bool__(self) -> bool:
        return self._answer(bool, "whether a condition holds")

    def __int__(self) -> int:
        return self._answer(int, "for a whole number")

    def __index__(self) -> int:
        return self._answer(int, "for a whole number")

    def __float__(self) -> float:
        return self._answer(float, "for a number")

    def __len__(self) -> int:
        return self._length()

    def __iter__(self) -> Iterator[Any]:
        return iter([self._item(i) for i in range(self._length())])

    def __contains__(self, item: object) -> bool:
        return self._answer(lambda value: item in value, "whether something is in it")

    def __getattr__(self, name: str) -> _Attribute:
        if not hasattr(self.value, name):
            raise AttributeError(f"{type(self.value).__name__} has no attribute {name}")
        return _Attribute(self, name)

    def _item(self, index: int) -> StandIn:
        return self.tracer.create_proxy("call_function", operator.getitem, (self, index), {})

    def _length(self) -> int:
        if not isinstance(self.value, torch.Size):  # the number of axes is always the same
            self.tracer.asked.append(_line())
        return len(self.value)

    def _answer(self, convert: Callable[[Any], T], what: str) -> T:
        if self.of_values or isinstance(self.value, Tensor):
            raise ValueNeeded(f"{_line()} asks {what}, which depends on the values of a tensor")
        self.tracer.asked.append(_line())
        return convert(self.value)


record_augmented(StandIn)


class _Attribute(StandIn, fx.proxy.Attribute):
    """`x.shape` of a stand-in, or the method of a call that comes next."""

    def __init__(self, root: StandIn, attr: str):
        fx.proxy.Attribute.__init__(self, root, attr)
        self.value = getattr(root.value, attr)
        self.of_values = root.of_values


class ExampleTracer(fx.Tracer):
    """Records a network for one ``example``. Other arguments than the first keep their defaults.

    ``asked`` has the lines of code that asked about sizes. ``kept`` are the modules, by path, whose code cannot be
    recorded, with the reason: they stay whole, as the layers of ``torch.nn`` do.
    """

    def __init__(self, example: Tensor, functions: tuple[Callable[..., Any], ...] = ()):
        super().__init__(autowrap_functions=functions)
        self._example = example.detach().clone()
        self._is_computing = False
        self._parameters: dict[str, fx.Proxy] = {}  # that torch.fx keeps
        self.asked: list[str] = []
        self.kept: dict[str, str] = {}

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        """As of ``torch.fx``; ``root`` is as before afterwards.

        Raises ValueNeeded, and whatever the code of ``root`` raises on a stand-in.
        """
        with torch.no_grad(), _recorded_factories(), _unchanged(root):
            return super().trace(root, concrete_args)

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        """One placeholder, for the image."""
        parameters = [*inspect.signature(root_fn).parameters][1:] or ["x"]
        return root_fn, [self.root, self.create_proxy("placeholder", parameters[0], (), {})]

    def create_arg(self, a: Any) -> Any:
        """As of ``torch.fx``, which takes a data class that is a dictionary as well for a plain dictionary."""
        if is_dataclass(a) and isinstance(a, dict):
            parts = {field.name: self.create_arg(getattr(a, field.name)) for field in fields(a)}
            return self.create_node("call_function", type(a), (), parts)
        return super().create_arg(a)

    def proxy(self, node: fx.Node) -> StandIn:
        return StandIn(node, self)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *more: Any, **options: Any) -> Any:
        """The stand-in for a call, with its value."""
        made: Any = super().create_proxy(kind, target, args, kwargs, *more, **options)
        made.value = self._compute(kind, target, _values(args), _values(kwargs))
        made.of_values = _depends_on_values(target, made.value, [*_standing_in(args), *_standing_in(kwargs)])
        return made

    def _compute(self, kind: str, target: Any, args: Any, kwargs: Any) -> Any:
        if kind == "placeholder":
            return self._example
        before, self._is_computing = self._is_computing, True
        try:
            if kind == "get_attr":
                return operator.attrgetter(target)(self.root)
            if kind == "call_method":
                return getattr(args[0], target)(*args[1:], **kwargs)
            return (self.root.get_submodule(target) if kind == "call_module" else target)(*args, **kwargs)
        finally:
            self._is_computing = before

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Record the calls inside ``m``; keep it whole where that fails, with its state and the graph as before."""
        if self._is_computing:
            return forward(*args, **kwargs)
        path = self.path_of_module(m)
        if self.is_leaf_module(m, path):
            return super().call_module(m, forward, args, kwargs)
        last, stack = next(iter(reversed(self.graph.nodes))), self.module_stack.copy()
        asked, kept = len(self.asked), dict(self.kept)
        if path not in kept:
            try:
                with _unchanged_on_error(m):
                    return super().call_module(m, forward, args, kwargs)
            except Exception as error:  # whatever the code of the network raises
                self._forget(last)
                self.module_stack = stack
                del self.asked[asked:]
                self.kept = {**kept, path: first_line(error)}
        return self.create_proxy("call_module", path, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        """As of ``torch.fx``, but while values are computed."""
        self._parameters = parameter_proxy_cache
        return attr_val if self._is_computing else super().getattr(attr, attr_val, parameter_proxy_cache)

    def _forget(self, last: fx.Node) -> None:
        """Erase the nodes behind ``last``."""
        for node in reversed(self.graph.nodes):
            if node is last:
                break
            for name in [name for name, proxy in self._parameters.items() if proxy.node is node]:
                del self._parameters[name]
            self.graph.erase_node(node)


@contextlib.contextmanager
def _unchanged(network: nn.Module) -> Iterator[None]:
    """Restore the attributes of all modules of ``network``: code may keep stand-ins in them. New tensors stay: they are
    the constants of the graph, which ``torch.fx`` adds."""
    states = _states(network)
    try:
        yield
    finally:
        for module, state, _ in states:
            state.update({name: x for name, x in vars(module).items() if name not in state and isinstance(x, Tensor)})
        _restore(states)


@contextlib.contextmanager
def _unchanged_on_error(module: nn.Module) -> Iterator[None]:
    states = _states(module)
    try:
        yield
    except Exception:
        _restore(states)
        raise


_State = tuple[nn.Module, dict[str, Any], list[tuple[Any, Any]]]


def _states(network: nn.Module) -> list[_State]:
    """Each module with its attributes, and with what is in those that hold values, such as hooks and caches."""
    return [
        (module, dict(vars(module)), [(x, copy.copy(x)) for x in vars(module).values() if type(x) in _HOLDERS])
        for module in network.modules()
    ]


_HOLDERS = (dict, OrderedDict, defaultdict, list)


def _restore(states: list[_State]) -> None:
    for module, state, holders in states:
        vars(module).clear()
        vars(module).update(state)
        for holder, before in holders:
            holder.clear()
            holder.extend(before) if isinstance(holder, list) else holder.update(before)


class GraphTracer(fx.Tracer):
    """Records the code of a graph again, for ``torch.fx``, which does so where a graph is unpickled."""

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        """As of ``torch.fx``."""
        with _recorded_factories():
            return super().trace(root, concrete_args)


def _standing_in(value: Any) -> list[Any]:
    found: list[fx.Proxy] = []
    fx.node.map_aggregate(value, lambda each: found.append(each) if isinstance(each, fx.Proxy) else None)
    return found


def _values(value: Any) -> Any:
    return fx.node.map_aggregate(value, lambda each: each.value if isinstance(each, StandIn) else each)


def _depends_on_values(target: Any, value: Any, read: list[StandIn]) -> bool:
    """Whether a result that is no tensor can be another for another image of the same size."""
    if next(tensors_in(value), None) is not None or value is None:
        return False
    if any(each.of_values for each in read):
        return True
    asks_for_size = target in _OF_SIZES or target is getattr or getattr(target, "__name__", "") in _OF_SIZES
    return not asks_for_size and any(next(tensors_in(each.value), None) is not None for each in read)


def _line() -> str:
    """Where the code of the network is, as FILE:LINE."""
    frame = sys._getframe()
    while frame.f_back and frame.f_code.co_filename.startswith(_SKIPPED):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


@contextlib.contextmanager
def _recorded_factories() -> Iterator[None]:
    """Let `torch.arange` and the like take stand-ins for numbers, which are then recorded."""
    with contextlib.ExitStack() as stack:
        for name in _FACTORIES:
            stack.enter_context(mock.patch.object(torch, name, _recording(getattr(torch, name))))
        yield


def _recording(factory: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(factory)
    def call(*args: Any, **kwargs: Any) -> Any:
        found = [*_standing_in(args), *_standing_in(kwargs)]
        return (
            found[0].tracer.create_proxy("call_function", factory, args, kwargs) if found else factory(*args, **kwargs)
        )

    return call
