"""Layers of torchvision and timm that tracing has to keep whole, and what some of them are in terms of ``torch.nn``.

Traced into, they would bake the mode or the image size of the moment into the graph. Neither library is imported here:
a network that has such layers has imported it already.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from torch import nn

from layer_folding.errors import InputError

_IN_MODULE = (
    ("torch.nn.parallel", "DataParallel"),
    ("torch.nn.parallel", "DistributedDataParallel"),
    ("torch.optim.swa_utils", "AveragedModel"),
)
_COMPILED = (("torch._dynamo.eval_frame", "OptimizedModule"),)


def is_foreign_leaf(module: nn.Module) -> bool:
    """Whether ``module`` is one that its library asks tracers to keep whole, or drops whole branches in training."""
    no_trace = _find("timm.layers", "is_notrace_module")
    return isinstance(module, branch_dropouts()) or (no_trace is not None and no_trace(type(module)))


def leaf_functions() -> tuple[Callable, ...]:
    """The functions that timm asks tracers to keep whole."""
    listed = _find("timm.layers", "get_notrace_functions")
    return () if listed is None else tuple(f for f in listed() if callable(f))


def branch_dropouts() -> tuple[type[nn.Module], ...]:
    """Dropouts of whole branches or blocks: the identity in eval mode."""
    found = [_find("torchvision.ops", "StochasticDepth")]
    found += [_find("timm.layers", name) for name in ("DropPath", "DropBlock2d")]
    return tuple(kind for kind in found if kind is not None)


def is_batch_norm_act(module: nn.Module | None) -> bool:
    """Whether ``module`` is timm's BatchNorm with a dropout and an activation in it, called ``drop`` and ``act``."""
    kind = _find("timm.layers", "BatchNormAct2d")
    return kind is not None and type(module) is kind


def is_same_padded(module: nn.Module | None) -> bool:
    """Whether ``module`` is timm's convolution that pads as TensorFlow's "SAME" does, by the size of its input."""
    kind = _find("timm.layers", "Conv2dSame")
    return kind is not None and type(module) is kind


def require_unwrapped(network: nn.Module) -> None:
    """Raise InputError, which names what is inside, where ``network`` only wraps another for training or speed."""
    inside = "module" if _is_one_of(network, _IN_MODULE) else "_orig_mod" if _is_one_of(network, _COMPILED) else ""
    if inside:
        raise InputError(f"{type(network).__name__} wraps the network; pass what is in it, model.{inside}")


def _is_one_of(network: nn.Module, kinds: tuple[tuple[str, str], ...]) -> bool:
    found = [_find(library, name) for library, name in kinds]
    return isinstance(network, tuple(kind for kind in found if isinstance(kind, type)))


def _find(library: str, name: str) -> Any:
    """``name`` of ``library``, None where the library is not loaded or has no such name."""
    return getattr(sys.modules.get(library), name, None)
