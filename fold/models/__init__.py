"""The networks that a name on the command line or in a checkpoint's recipe can mean."""

import difflib
import inspect
from collections.abc import Callable
from functools import partial

from torch import nn

from layer_folding.errors import InputError

from .cifar_resnet import CifarResNet
from .mlp import ACTIVATIONS, Mlp
from .mobilenet import mobilenetv2, mobilenetv2_digits
from .vgg import CifarVgg


def efficientnet_lite(variant: int, num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """EfficientNet-Lite0 to -Lite4: EfficientNet with ReLU6 and without squeeze-and-excitation, by timm."""
    import timm  # not needed for the others

    return timm.create_model(f"efficientnet_lite{variant}", num_classes=num_classes, in_chans=in_channels)


MODELS: dict[str, Callable[..., nn.Module]] = {
    **{f"resnet{depth}": partial(CifarResNet, depth) for depth in (20, 32, 44, 56, 110)},
    **{f"vgg{depth}-bn": partial(CifarVgg, depth) for depth in (16, 19)},
    "mobilenetv2": partial(mobilenetv2, 1.0),
    **{f"mobilenetv2-{width}": partial(mobilenetv2, width) for width in (0.75, 1.4)},
    "mobilenetv2-digits": mobilenetv2_digits,
    **{f"efficientnet-lite{variant}": partial(efficientnet_lite, variant) for variant in range(5)},
    **{f"mlp-{activation}": partial(Mlp, activation) for activation in ACTIVATIONS},
}


def find(name: str) -> Callable[..., nn.Module]:
    """The constructor of the network ``name``. Raises InputError for an unknown name (did you mean ...)."""
    if name not in MODELS:
        close = difflib.get_close_matches(name, MODELS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise InputError(
            f"unknown model {name!r}: {hint}known models are {', '.join(MODELS)}, "
            "and torchvision:NAME, timm:NAME and package.module:function"
        )
    return MODELS[name]


def build(name: str, num_classes: int = 10, in_channels: int = 3, **arguments: object) -> nn.Module:
    """The network ``name`` with fresh weights, in training mode.

    ResNets take ``shortcut`` ("A" or "B") and ``head`` ("linear" or "fc"), the fully connected networks ``size``. Input
    [N, in_channels, size, size], where size is 32 for VGG, 32 by default for the fully connected networks, and free for
    the others; output logits [N, num_classes]. Raises InputError for an unknown name (did you mean ...) and for
    arguments that the network does not take.
    """
    constructor = find(name)
    try:
        inspect.signature(constructor).bind(num_classes, in_channels, **arguments)
        return constructor(num_classes, in_channels, **arguments)
    except (TypeError, ValueError) as error:
        raise InputError(f"model {name!r}: {error}; docs/models.md has the arguments of each model") from error
