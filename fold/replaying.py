"""Carry a recipe out: from the network that its name builds to the network whose weights are in the file."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from layer_folding.errors import InputError
from layer_folding.recipes import Recipe
from layer_folding.stages import FOLD, PRETRAIN

from .fitting.parts import find_parts
from .fitting.placing import place_all
from .gating import linearize
from .graph.changes import remove
from .graph.noted_fits import note_fits
from .graph.tracing import trace
from .merge.rewriting import replace_regions
from .model_names import build
from .regions.finding import exact_regions
from .regions.padding import hoist_padding


def example_of(recipe: Recipe) -> Tensor:
    """One image of zeros as the network of ``recipe`` takes it, [1, C, *spatial]."""
    return torch.zeros(1, *recipe.input_shape)


def original(recipe: Recipe, trust: str | None = None) -> nn.Module:
    """The original network of ``recipe``, with fresh weights. ``trust`` is as in `model_names.build`."""
    return build(recipe.network.spec, recipe.network.arguments, trust)


def fitted(recipe: Recipe, trust: str | None = None) -> nn.Module:
    """The original network of ``recipe`` with the layers that were fitted, with fresh weights.

    ``trust`` is as in `model_names.build`. Raises InputError as `replay` does.
    """
    model = original(recipe, trust)
    if not recipe.fitted:
        return model
    traced = trace(model, example_of(recipe))
    parts = find_parts(traced, recipe.choices)
    changed, placed = place_all(traced, parts)
    now = [(part.layers, each.name) for part, each in zip(parts, placed, strict=True)]
    _require_same("fitted", now, [(record.layers, record.name) for record in recipe.fitted])
    note_fits(changed, recipe.fitted)
    return changed


def replay(recipe: Recipe, trust: str | None = None) -> nn.Module:
    """The network that ``recipe`` describes, with fresh weights, in training mode.

    ``trust`` is as in `model_names.build`. Raises InputError where a step cannot be carried out, or has another result
    than the recipe says.
    """
    return original(recipe, trust) if recipe.stage == PRETRAIN.network else changed(recipe, trust)


def changed(recipe: Recipe, trust: str | None = None) -> fx.GraphModule:
    """What `replay` gives for any stage after the first, as the graph that it then is.

    Gates that open on a schedule are still closed, and padding is not hoisted: `train.scheduled` goes on from there.
    """
    model, example, pooling = fitted(recipe, trust), example_of(recipe), recipe.average_pooling
    if recipe.gate is not None:
        return linearize(model, example, gate=recipe.gate, average_pooling=pooling, linear=recipe.linear)
    traced = remove(trace(model, example, average_pooling=pooling), list(recipe.removed), recipe.linear)
    if recipe.hoisted is not None:
        traced, hoisted = hoist_padding(traced, example, average_pooling=pooling)
        _require_same("hoisted", tuple(region.layers for region in hoisted), recipe.hoisted)
    if recipe.stage == FOLD.network:
        traced = trace(traced, example, average_pooling=pooling)
        traced, merged = replace_regions(traced, exact_regions(traced).found)
        layers = {name: tuple(node.target for node in layer.region.layers) for name, layer in merged.items()}
        _require_same("folded", layers, recipe.folded)
    return traced


def _require_same(what: str, now: object, recorded: object) -> None:
    if now != recorded:
        raise InputError(f"this version replays the {what} regions differently from the recipe; run the stage again")
