"""The networks that a name on the command line or in a checkpoint's recipe can mean."""

import difflib
import inspect
from collections.abc import Callable
from functools import partial

from torch import nn

from fold.errors import InputError
from train.models.cifar_resnet import CifarResNet
from train.models.mobilenet import mobilenetv2, mobilenetv2_digits
from train.models.weights import apply_weights, arguments_from_weights, load_weights, split_gates

__all__ = ["MODELS", "apply_weights", "arguments_from_weights", "build", "find", "load_weights", "split_gates"]

MODELS: dict[str, Callable[..., nn.Module]] = {
    **{f"resnet{depth}": partial(CifarResNet, depth) for depth in (20, 32, 44, 56, 110)},
    "mobilenetv2": mobilenetv2,
    "mobilenetv2-digits": mobilenetv2_digits,
}


def find(name: str) -> Callable[..., nn.Module]:
    """The constructor of the network ``name``. Raises InputError for an unknown name (did you mean ...)."""
    if name not in MODELS:
        close = difflib.get_close_matches(name, MODELS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise InputError(f"unknown model {name!r}: {hint}known models are {', '.join(MODELS)}")
    return MODELS[name]


def build(name: str, num_classes: int, in_channels: int = 3, **arguments: object) -> nn.Module:
    """The network ``name`` with fresh weights (Kaiming, fan-out), in training mode.

    ResNets take ``shortcut`` ("A" or "B") and ``head`` ("linear" or "fc"). Input [N, in_channels, 32, 32], output
    logits [N, num_classes]. Raises InputError for an unknown name (did you mean ...) and for arguments that the network
    does not take.
    """
    constructor = find(name)
    try:
        inspect.signature(constructor).bind(num_classes, in_channels, **arguments)
        return constructor(num_classes, in_channels, **arguments)
    except (TypeError, ValueError) as error:
        raise InputError(f"model {name!r}: {error}; see train.models.build for the arguments of each model") from error
