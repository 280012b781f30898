"""Pretrain: make original.safetensors, from weights that are given or by training."""

import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import torch
from torch import nn

from layer_folding.errors import InputError
from layer_folding.fold import model_names
from layer_folding.fold.graph.comparing import tensors_in
from layer_folding.recipes import Recipe
from layer_folding.stages import PRETRAIN

from . import config, data, health, inputs, labelling, loop, trained
from .hyperparameters import hyperparameters
from .settings import DataSettings, PretrainSettings
from .trained import Trained

# What the network was made from; how it was trained concerns nobody once it is there.
_LASTING = ("model", *(field.name for field in fields(DataSettings)), "weights")


def pretrain(run: Path, settings: PretrainSettings, weights: Path | None = None) -> Trained:
    """Make original.safetensors in ``run``, and eval.npz, calib.npz and heldout.npz beside it.

    ``weights`` is a file to take in place of training. Raises InputError for settings or files that cannot be used,
    CheckError as `loop.train` does.
    """
    settings = replace(settings, data=inputs.lasting(settings).data)
    weights = weights or model_names.weights_file(settings.model)
    dataset = inputs.dataset(settings)
    if not dataset.classes and weights is None:
        raise InputError(
            f"data {settings.data}: has no labels to train a network by; give trained --weights (WEIGHTS), or lay it "
            "out as train/CLASS/*.jpg and test/CLASS/*.jpg"
        )
    start = inputs.network(settings.model, dataset, weights, settings.seed)
    before = trained.done(run, PRETRAIN)
    if not before and not dataset.classes:
        dataset = labelling.labelled(dataset, start.model)
    config.enter(run, PRETRAIN.command, settings, {"weights": weights}, lasting=_LASTING if before else None)
    if before:
        return before
    if weights is None:
        if not settings.epochs:
            print("note: neither --weights nor training: the network is random", file=sys.stderr)
        loop.train(start.model, dataset, run, PRETRAIN.command, hyperparameters(settings))
    if start.gates:
        print(
            f"note: {weights} has {len(start.gates)} gates; prefold starts from their values, but the original network "
            "has no gates, so it is not the network that these weights were trained for",
            file=sys.stderr,
        )
    accuracy = loop.accuracy(start.model, dataset)
    if weights is not None and not start.gates and dataset.classes:
        _warn_of_guessing(weights, accuracy, dataset)
    recipe = Recipe(
        PRETRAIN.network,
        start.built,
        dataset.shape,
        classes=dataset.classes,
        gates=start.gates,
        accuracy={PRETRAIN.network: accuracy},
    )
    data.save_eval_set(run / "eval.npz", dataset)
    fitted = data.calibration_count(dataset, _largest_value(start.model, dataset.shape))
    data.save_calibration_set(run / "calib.npz", dataset, fitted)
    data.save_held_out_set(run / "heldout.npz", dataset, fitted)
    return trained.finish(run, PRETRAIN, start.model, recipe)


@torch.no_grad()
def _largest_value(model: nn.Module, shape: Sequence[int]) -> int:
    """Bytes of the largest value that a module of ``model``, in eval mode, gives for one image of ``shape``."""
    sizes: list[int] = []
    hooks = [
        module.register_forward_hook(lambda module, given, value: sizes.extend(x.nbytes for x in tensors_in(value)))
        for module in model.modules()
    ]
    model.eval()(torch.zeros(1, *shape, device=next(model.parameters()).device))
    for hook in hooks:
        hook.remove()
    return max(sizes)


def _warn_of_guessing(weights: Path, accuracy: float, dataset: data.Dataset) -> None:
    """Say so where given weights do not know the classes of the data."""
    classes, count = dataset.classes, len(dataset.test.labels)
    if health.guesses(accuracy, count, len(classes)):
        order = ", ".join(classes[:3]) + (", ..." if len(classes) > 3 else "")
        print(
            f"note: {weights}: {100 * accuracy:.2f} % of {count} test images is no better than guessing among "
            f"{len(classes)} classes; usual causes: another order of the classes (here that of the sorted names: "
            f"{order}), another normalisation (--mean, --std), another --size",
            file=sys.stderr,
        )
