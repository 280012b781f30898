"""Activations that are added: a merged layer may keep one at its end where the original network had none.

An inverted residual ends linear. Merged, it has lost its two activations, and none follows: one could, as in
DepthShrinker (Fu et al., ICML 2022, arXiv 2206.00843). Among the names of activations that go, ``+VALUE=ACTIVATION``
says that a copy of ACTIVATION comes to stand behind VALUE, so that whatever read VALUE reads that.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

from torch import fx

from fold.errors import InputError
from fold.graph import is_activation, scope_of

_PLUS, _EQUALS, _SUFFIX = "+", "=", "_added"


def is_addition(change: str) -> bool:
    """Whether ``change``, one of the names of activations that go, says instead what is added."""
    return change.startswith(_PLUS)


def addition(value: fx.Node, activation: fx.Node) -> str:
    """How it is written that a copy of ``activation`` comes to stand behind ``value``."""
    return f"{_PLUS}{_path(value)}{_EQUALS}{activation.target}"


def path_of(change: str) -> str:
    """The path of the module that an addition brings into the network."""
    return change[len(_PLUS) :].partition(_EQUALS)[0] + _SUFFIX


def add(traced: fx.GraphModule, changes: Iterable[str]) -> fx.GraphModule:
    """Carry out the additions among ``changes``, in place; returns ``traced``, from `fold.trace.trace`.

    Raises InputError for one of a value or an activation that is not in the network.
    """
    for change in filter(is_addition, changes):
        value, _, activation = change[len(_PLUS) :].partition(_EQUALS)
        behind = next((node for node in traced.graph.nodes if _path(node) == value), None)
        copied = next((n for n in traced.graph.nodes if n.target == activation and is_activation(n)), None)
        if behind is None or copied is None:
            missing = f"value {value!r}" if behind is None else f"activation {activation!r}"
            raise InputError(f"{change}: there is no {missing} in the network; give {_PLUS}VALUE{_EQUALS}ACTIVATION, "
                             "as a plan has it")  # fmt: skip
        traced.add_submodule(path_of(change), copy.deepcopy(traced.get_submodule(activation)))
        with traced.graph.inserting_after(behind):
            added = traced.graph.call_module(path_of(change), (behind,))
        behind.replace_all_uses_with(added, delete_user_cb=lambda user, own=added: user is not own)
        added.meta["shape"] = behind.meta["shape"]
    traced.recompile()
    return traced


def _path(value: fx.Node) -> str:
    return value.target if value.op == "call_module" else f"{scope_of(value)}{value.name}"
