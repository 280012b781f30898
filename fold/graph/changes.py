"""Changes of a network: activations that are removed, and activations that are added.

Activations that are added: a merged layer may keep one at its end where the original network had none.

An inverted residual ends linear. Merged, it has lost its two activations, and none follows: one could, as in
DepthShrinker (Fu et al., ICML 2022, arXiv 2206.00843). Among the names of removed activations, ``+VALUE=ACTIVATION``
says that a copy of ACTIVATION comes to stand behind VALUE, so that whatever read VALUE reads that.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import fx, nn

from layer_folding.errors import InputError

from .channel_affine import ChannelAffine
from .nodes import has_channels_last, is_activation, mark, scope_of, shape_of, target_of

_PLUS, _EQUALS, _SUFFIX = "+", "=", "_added"


def is_addition(change: str) -> bool:
    """Whether ``change``, one of the names of removed activations, says instead what is added."""
    return change.startswith(_PLUS)


def addition(value: fx.Node, activation: fx.Node) -> str:
    """How it is written that a copy of ``activation`` comes to stand behind ``value``."""
    return f"{_PLUS}{_path(value)}{_EQUALS}{activation.target}"


def path_of(change: str) -> str:
    """The path of the module that an addition brings into the network."""
    return change[len(_PLUS) :].partition(_EQUALS)[0] + _SUFFIX


def add(traced: fx.GraphModule, changes: Iterable[str]) -> fx.GraphModule:
    """Carry out the additions among ``changes``, in place; returns ``traced``, from `fold.graph.tracing.trace`.

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


def remove(traced: fx.GraphModule, names: list[str], linear: str = "identity") -> fx.GraphModule:
    """Replace the activations called ``names`` by linear maps that are marked as removed, in place; returns ``traced``.

    ``linear`` is "identity", or "affine" for a `ChannelAffine` each, which changes nothing until it gets its weights.
    The additions among ``names`` (`fold.graph.changes`) are carried out before. Raises InputError for a name that is no
    activation of the network, and as `fold.graph.changes.add` does.
    """
    add(traced, names)
    activations = {target_of(node): node for node in traced.graph.nodes if is_activation(node)}
    for name in names:
        if is_addition(name):
            continue
        if name not in activations:
            raise InputError(f"activation {name!r} is not in the network; its activations: {', '.join(activations)}")
        traced.set_submodule(name, removed_activation() if linear == "identity" else _affine(activations[name]))
    return traced


def _affine(activation: fx.Node) -> ChannelAffine:
    axis = -1 if has_channels_last(activation) else 1
    ones = torch.ones(shape_of(activation)[axis])
    return ChannelAffine(ones, torch.zeros_like(ones), axis)


def removed_activation() -> nn.Identity:
    """An identity that `fold` knows to stand where an activation was removed on purpose."""
    identity = nn.Identity()
    mark(identity, "removed")
    return identity


def _path(value: fx.Node) -> str:
    return target_of(value) if value.op == "call_module" else f"{scope_of(value)}{value.name}"
