"""What public implementations call the weights of the networks here, and what to read off the names.

ResNets and VGG of chenyaofo/pytorch-cifar-models have the names of ours, those of akamaster/pytorch_resnet_cifar10 too
but for projections; MobileNetV2 has the names of torchvision there. Networks of torchvision and timm keep their own.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from layer_folding.errors import InputError

_BLOCK = r"features\.(\d+)\.conv\."
# A block of torchvision's MobileNetV2 by the number of modules in its `conv`: with and without an expansion.
_WITH_EXPANSION = {
    "0.0": "expand.conv", "0.1": "expand.bn", "1.0": "depthwise.conv", "1.1": "depthwise.bn",
    "2": "project.conv", "3": "project.bn",
}  # fmt: skip
_WITHOUT = {"0.0": "depthwise.conv", "0.1": "depthwise.bn", "1": "project.conv", "2": "project.bn"}


def with_our_names(name: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``weights`` of the network ``name`` of `fold.models` with the names that it gives them."""
    if name.startswith("resnet"):
        return {re.sub(r"^(layer\d+\.\d+)\.shortcut\.", r"\1.downsample.", key): v for key, v in weights.items()}
    if name.startswith("mobilenetv2") and "features.0.0.weight" in weights:
        return {_mobilenet_name(key, weights): value for key, value in weights.items()}
    return dict(weights)


def variant(name: str, weights: Mapping[str, Tensor]) -> dict[str, str]:
    """Which kind of the network ``name`` these weights (with our names) are for, as arguments of `fold.models.build`:
    of ResNets ``shortcut`` ("B" if any block has a projection, else "A") and ``head`` ("fc" or "linear")."""
    if not name.startswith("resnet"):
        return {}
    projected = any(".downsample." in key for key in weights)
    return {"shortcut": "B" if projected else "A", "head": "fc" if "fc.weight" in weights else "linear"}


def split_gates(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The weights of the network itself, and its gates by name, as `fold.gating` calls them.

    The code that the authors of Layer Folding published saves the gate of the N-th activation of a ResNet's block as
    ``layerX.Y.alphaN.alpha``. Weights without such keys have no gates. Raises InputError for a gate of several values.
    """
    own, gates = {}, {}
    for key, value in weights.items():
        found = re.fullmatch(r"(layer\d+\.\d+)\.alpha([12])\.alpha", key)
        if found:
            if value.numel() != 1:
                raise InputError(f"weights: the gate {key} is a tensor {list(value.shape)}, not one number")
            gates[found[1] + (".relu" if found[2] == "1" else ".relu_1")] = value.item()
        else:
            own[key] = value
    return own, gates


def _mobilenet_name(key: str, weights: Mapping[str, Tensor]) -> str:
    block = re.match(_BLOCK, key)
    if block:
        names = _WITH_EXPANSION if f"{block[0]}3.weight" in weights else _WITHOUT
        module, _, parameter = key.removeprefix(block[0]).rpartition(".")
        return f"blocks.{int(block[1]) - 1}.{names.get(module, module)}.{parameter}"
    key = re.sub(r"^features\.0\.", "stem.", key)
    key = re.sub(r"^features\.\d+\.", "head.", key)
    key = re.sub(r"^(stem|head)\.([01])\.", lambda found: f"{found[1]}.{('conv', 'bn')[int(found[2])]}.", key)
    return re.sub(r"^classifier\.1\.", "linear.", key)
