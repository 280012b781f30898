"""Checkpoints: safetensors whose metadata holds the recipe of the network. Loading them unpickles nothing.

Loading builds the network, replays the recipe on it, and fills in the weights.
"""

from __future__ import annotations

import os
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor, nn

from layer_folding import recipes
from layer_folding.errors import InputError
from layer_folding.files import atomic_path
from layer_folding.recipes import Recipe
from layer_folding.stages import STAGES

from .replaying import replay


def save(path: str | Path, model: nn.Module, recipe: Recipe) -> None:
    """Write the weights of ``model`` and the ``recipe`` that rebuilds it, atomically."""
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    content = safetensors.torch.save(weights, {"recipe": recipes.to_json(recipe)})
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)  # safetensors' own writing of files hides a full disk


def load(path: str | Path, trust: str | None = None) -> tuple[nn.Module, Recipe]:
    """The network of a checkpoint, in eval mode on the CPU, and its recipe. ``trust`` is as in `model_names.build`.

    Raises:
        InputError: the file is missing, damaged or not a checkpoint, its recipe cannot be replayed, or the network in
            it still has gates.
    """
    recipe, weights = read(path)
    if recipe.gate is not None:
        raise InputError(f"{path}: its network still has gates; `layer-folding finetune` hardens it")
    return rebuild(path, recipe, weights, trust), recipe


def read(path: str | Path) -> tuple[Recipe, dict[str, Tensor]]:
    """Recipe and weights of a checkpoint, as they are in the file. Raises InputError as `load` does."""
    if not os.path.isfile(path):
        written = (f"`layer-folding {stage.command}` writes it" for stage in STAGES if stage.file == Path(path).name)
        raise InputError(f"{path}: no such checkpoint; {next(written, 'give the path of one')}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("recipe")
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
    except safetensors.SafetensorError as error:
        raise InputError(
            f"{path}: not a checkpoint, or damaged; if a stage wrote the file, delete the file and run the stage again"
        ) from error
    if text is None:
        raise InputError(f"{path}: holds weights without a recipe; give such a file as WEIGHTS instead")
    try:
        return recipes.from_json(text), weights
    except ValueError as error:
        raise InputError(
            f"{path}: its recipe cannot be used ({error}); make the checkpoint again with this version, in another run "
            "folder (RUN=DIR); an original network can be given as WEIGHTS there"
        ) from error


def rebuild(path: str | Path, recipe: Recipe, weights: dict[str, Tensor], trust: str | None = None) -> nn.Module:
    """The network of ``recipe`` with ``weights``, in eval mode; ``path`` is for messages. Raises InputError."""
    try:
        model = replay(recipe, trust)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    fill(model, weights, path)
    return model.eval()


def fill(model: nn.Module, weights: dict[str, Tensor], path: str | Path) -> None:
    """Load ``weights`` into ``model``, all keys and shapes matching. Raises InputError naming those that do not."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        details = " ".join(str(error).split())
        raise InputError(f"{path}: weights do not fit its recipe ({details[:300]}); run its stage again") from error
