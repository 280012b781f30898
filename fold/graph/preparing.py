"""A private copy of a network on which tracing can rely: weights as they are used, nothing patched from outside."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from layer_folding.errors import InputError

from .comparing import tensors_in
from .nodes import first_line


def private_copy(model: nn.Module, *, share_weights: bool) -> nn.Module:
    """A copy of ``model`` in eval mode in which every weight is a plain parameter.

    Weights that are computed (`torch.nn.utils.parametrizations`, `weight_norm`, `spectral_norm`, `prune`) are computed
    once, for the copy. With ``share_weights``, all other parameters and buffers are those of ``model``. Raises
    InputError where ``model`` cannot be copied.
    """
    copied = whole_copy(model, share_weights=share_weights)
    with torch.no_grad():
        for module in list(copied.modules()):
            _compute_weights(module)
    return copied


def whole_copy(model: nn.Module, *, share_weights: bool = False) -> nn.Module:
    """A copy of ``model`` in eval mode, computed weights and all, where `copy.deepcopy` refuses those.

    Arguments and errors are those of `private_copy`.
    """
    memo: dict[int, object] = {}
    for module in model.modules():
        # deepcopy refuses tensors that a backward pass could go through
        kept = tensors_in(list(vars(module).values()))
        memo.update((id(tensor), tensor.detach().clone()) for tensor in kept if not tensor.is_leaf)
    if share_weights:
        memo.update((id(tensor), tensor) for tensor in (*model.parameters(), *model.buffers()))
    try:
        return copy.deepcopy(model, memo).eval()
    except Exception as error:  # whatever an attribute of the model raises
        raise InputError(
            f"{type(model).__name__} cannot be copied ({first_line(error)}); keep what cannot be copied outside of it"
        ) from error


def _compute_weights(module: nn.Module) -> None:
    """Put plain parameters in the place of the weights of ``module`` that are computed."""
    if parametrize.is_parametrized(module):
        _compute_parametrizations(module)
    for hook in list(module._forward_pre_hooks.values()):
        if isinstance(hook, WeightNorm):
            remove_weight_norm(module, hook.name)
        elif isinstance(hook, SpectralNorm):
            remove_spectral_norm(module, hook.name)
    for key, hook in list(module._forward_pre_hooks.items()):
        if isinstance(hook, prune.BasePruningMethod):
            _compute_pruned(module, hook)
            del module._forward_pre_hooks[key]


def _compute_parametrizations(module: nn.Module) -> None:
    """`remove_parametrizations` would write to the class, which ``module`` shares with the module it is a copy of."""
    parametrizations = module.get_submodule("parametrizations")
    computed = {
        name: (getattr(module, name), any(p.requires_grad for p in recipe.parameters()))
        for name, recipe in parametrizations.named_children()
    }
    module.__class__ = type(module).__bases__[0]
    del module.parametrizations
    for name, (value, trainable) in computed.items():
        _set_parameter(module, name, value, trainable=trainable)


def _compute_pruned(module: nn.Module, hook: prune.BasePruningMethod) -> None:
    """`prune.remove` would write to the unpruned weight, which ``module`` may share with the module it is a copy of."""
    name: str = hook._tensor_name
    value, trainable = hook.apply_mask(module), getattr(module, f"{name}_orig").requires_grad
    vars(module).pop(name, None)
    delattr(module, f"{name}_orig")
    delattr(module, f"{name}_mask")
    _set_parameter(module, name, value, trainable=trainable)


def _set_parameter(module: nn.Module, name: str, value: Tensor, *, trainable: bool) -> None:
    module.register_parameter(name, nn.Parameter(value.detach().clone(), requires_grad=trainable))


def patches(model: nn.Module) -> Iterator[str]:
    """What was changed on the modules of ``model`` from outside: forward hooks, and ``forward`` of an instance."""
    for path, module in model.named_modules():
        name = path or type(model).__name__
        if module._forward_hooks or module._forward_pre_hooks:
            yield f"a forward hook of {name}"
        if "forward" in vars(module):
            yield f"a forward set on {name}"


def strip(module: nn.Module) -> None:
    """Take from ``module``, which the graph calls as a whole, what was changed from outside: merging would drop it."""
    module._forward_hooks.clear()
    module._forward_pre_hooks.clear()
    vars(module).pop("forward", None)
