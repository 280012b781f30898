"""What an ONNX file says about the network in it, for readers that have no PyTorch."""

import json

import torch
from torch import nn

from fold.cost import cost, depth


def describe(model: nn.Module, recipe: dict) -> dict[str, str]:
    """The metadata of ``model`` and its checkpoint's ``recipe``: names to text.

    ``layer_folding.depth`` weighted layers on the longest path; ``.parameters`` and ``.macs`` (of one image) counts;
    ``.accuracy`` the fraction of images classified right at this stage, where it was measured; ``.precision``;
    ``.model`` the network's name; ``.recipe`` the whole recipe, JSON.
    """
    example = torch.zeros(1, *recipe["input_shape"])
    costs = cost(model, example)
    values = {
        "depth": depth(model, example),
        "parameters": costs.parameters,
        "macs": costs.macs,
        "precision": "fp32",
        "model": recipe["model"]["spec"].rpartition(":")[2],
        "recipe": json.dumps(recipe, allow_nan=False),
    }
    accuracy = recipe.get("accuracy", {}).get(recipe["stage"])
    if accuracy is not None:
        values["accuracy"] = accuracy
    return {f"layer_folding.{name}": str(value) for name, value in values.items()}
