"""Checkpoints: safetensors whose metadata holds a JSON recipe. Loading them unpickles nothing.

Loading builds the network, replays the recipe on it, and fills in the weights.

A recipe says how to get from nothing to the network whose weights are in the file:

    schema       1
    stage        "original", "prefold", "finetuned" or "folded"; also the key of this network's own accuracy
    model        {"spec": "train.models:resnet20", "arguments": {...}}
    input_shape  [C, H, W] of one image
    removed      activations that are gone, and additions (`fold.added`)  (finetuned, folded)
    hoisted      the layers of each region whose padding was hoisted  (finetuned, folded)
    folded       {merged layer: [layers that it replaces]}           (folded)
    accuracy     {stage: fraction of test images classified right}
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, fx, nn

from fold.added import add, is_addition
from fold.errors import InputError
from fold.files import atomic_path
from fold.graph import is_activation
from fold.padding import hoist_padding
from fold.regions import find_regions
from fold.rewrite import replace_regions
from fold.specs import build
from fold.trace import trace

SCHEMA = 1
STAGES = ("original", "prefold", "finetuned", "folded")


def save(path: str | Path, model: nn.Module, recipe: dict) -> None:
    """Write the weights of ``model`` and the ``recipe`` that rebuilds it, atomically."""
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    metadata = {"recipe": json.dumps({"schema": SCHEMA, **recipe}, allow_nan=False)}
    with atomic_path(path) as temporary:
        temporary.write_bytes(safetensors.torch.save(weights, metadata))  # save_file hides a full disk


def load(path: str | Path, named: str | None = None) -> tuple[nn.Module, dict]:
    """The network of a checkpoint, in eval mode on the CPU, and its recipe. ``named`` is as in `fold.specs.build`.

    Raises:
        InputError: the file is missing, damaged or not a checkpoint, its recipe cannot be replayed, or the network in
            it still has gates.
    """
    recipe, weights = read(path)
    if recipe["stage"] == "prefold":
        raise InputError(f"{path}: its network still has gates; `python -m train finetune` hardens it")
    try:
        model = replay(recipe, named)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    fill(model, weights, path)
    return model.eval(), recipe


def read(path: str | Path) -> tuple[dict, dict[str, Tensor]]:
    """Recipe and weights of a checkpoint, as they are in the file. Raises InputError as `load` does."""
    if not os.path.isfile(path):
        raise InputError(f"{path}: no such checkpoint; an earlier stage writes it, see `make help`")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            recipe = json.loads((file.metadata() or {})["recipe"])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
    except KeyError as error:
        raise InputError(f"{path}: holds weights without a recipe; give such a file as WEIGHTS instead") from error
    except (safetensors.SafetensorError, ValueError) as error:
        raise InputError(
            f"{path}: not a checkpoint, or damaged; if a stage wrote it, delete it and run that again"
        ) from error
    try:
        schema, stage = recipe["schema"], recipe["stage"]
        recipe["model"]["spec"], recipe["model"]["arguments"], recipe["input_shape"]
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: its recipe has no {error}; write it with this version") from error
    if schema != SCHEMA or stage not in STAGES:
        raise InputError(f"{path}: recipe of schema {schema!r}, stage {stage!r}; this version reads schema {SCHEMA}")
    return recipe, weights


def replay(recipe: dict, named: str | None = None) -> nn.Module:
    """The network that ``recipe`` describes, with fresh weights, in training mode. Raises InputError."""
    model = build(recipe["model"]["spec"], recipe["model"]["arguments"], named)
    if recipe["stage"] not in ("finetuned", "folded"):
        return model
    example = torch.zeros(1, *recipe["input_shape"])
    model, hoisted = hoist_padding(remove(trace(model, example), recipe["removed"]), example)
    _same("hoisted", [list(region.layers) for region in hoisted], recipe["hoisted"])
    if recipe["stage"] == "folded":
        traced = trace(model, example)
        regions = find_regions(traced)[0]
        model, merged = replace_regions(traced, regions)
        layers = {name: [node.target for node in layer.region.layers] for name, layer in merged.items()}
        _same("folded", layers, recipe["folded"])
    return model


def remove(traced: fx.GraphModule, names: list[str]) -> fx.GraphModule:
    """Replace the activations called ``names`` by identities that are marked as removed, in place; returns ``traced``.

    The additions among ``names`` (`fold.added`) are carried out before. Raises InputError for a name that is no
    activation of the network, and as `fold.added.add` does.
    """
    add(traced, names)
    activations = {node.target for node in traced.graph.nodes if is_activation(node)}
    for name in names:
        if is_addition(name):
            continue
        if name not in activations:
            raise InputError(f"activation {name!r} is not in the network; its activations: {', '.join(activations)}")
        traced.set_submodule(name, removed_activation())
    return traced


def removed_activation() -> nn.Identity:
    """An identity that `fold` knows to stand where an activation was removed on purpose."""
    identity = nn.Identity()
    identity.removed = True
    return identity


def fill(model: nn.Module, weights: dict[str, Tensor], path: str | Path) -> None:
    """Load ``weights`` into ``model``, all keys and shapes matching. Raises InputError naming those that do not."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        details = " ".join(str(error).split())
        raise InputError(f"{path}: weights do not fit its recipe ({details[:300]}); run its stage again") from error


def _same(what: str, now: object, recorded: object) -> None:
    if now != recorded:
        raise InputError(f"this version replays the {what} regions differently from the recipe; run the stage again")
