"""What an ONNX file says about the network in it, for readers that have no PyTorch."""

import onnx
import torch
from torch import nn

from layer_folding import recipes
from layer_folding.fold.regions.costs import cost, depth
from layer_folding.recipes import Recipe

PREFIX = "layer_folding."


def describe(model: nn.Module, recipe: Recipe) -> dict[str, object]:
    """What is known of ``model`` from its checkpoint's ``recipe``.

    ``depth`` weighted layers on the longest path; ``parameters`` and ``macs`` (of one image) counts; ``accuracy`` the
    fraction of images classified right at this stage, where it was measured; ``model`` the network's name; ``recipe``
    the whole recipe, JSON.
    """
    example = torch.zeros(1, *recipe.input_shape)
    costs = cost(model, example)
    values = {
        "depth": depth(model, example),
        "parameters": costs.parameters,
        "macs": costs.macs,
        "model": recipe.network.spec.rpartition(":")[2],
        "recipe": recipes.to_json(recipe),
    }
    accuracy = recipe.accuracy.get(recipe.stage)
    return values if accuracy is None else values | {"accuracy": accuracy}


def write(model: onnx.ModelProto, values: dict[str, object]) -> None:
    """Put ``values`` into the metadata of ``model``, in place of entries of the same names; the rest stays."""
    entries = {entry.key: entry.value for entry in model.metadata_props}
    entries |= {f"{PREFIX}{name}": str(value) for name, value in values.items()}
    onnx.helper.set_model_props(model, entries)
