"""What takes the place of labels, where images have none: the classes that the original network gives, or its outputs.

Accuracy is then agreement with the original network.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from layer_folding.errors import InputError
from layer_folding.fold import checkpoints
from layer_folding.fold.devices import best_device
from layer_folding.fold.fitting.imitation import SAMPLE, imitation_of
from layer_folding.recipes import Recipe
from layer_folding.stages import PRETRAIN

from . import config, data, inputs, loop
from .batches import normalise, test_batches
from .hyperparameters import Distilled
from .settings import PretrainSettings
from .stream import Files

Settings = TypeVar("Settings", bound=Distilled)


def labelled(dataset: data.Dataset, model: nn.Module) -> data.Dataset:
    """``dataset``, whose images have no labels, with the classes that ``model`` gives for them.

    Where ``model`` does not give a score for each class, ``dataset`` gets no classes, and imitates the outputs of
    ``model``. Says on stderr what accuracy is. ``model`` ends in eval mode on the CPU. Raises InputError where its
    outputs cannot be compared.
    """
    model.to(best_device()).eval()
    images = _sample(dataset)
    with torch.no_grad():
        scores = model(images[:1])
    if isinstance(scores, Tensor) and scores.is_floating_point() and scores.ndim == 2 and scores.shape[1] > 1:
        found = replace(_with_classes(dataset, model, scores.shape[1]), meaning="agreement with the original network")
    else:
        try:
            imitated = imitation_of(model, images)
        except InputError as error:
            raise InputError(f"data {dataset.name}: its images have no labels, and {error}") from error
        found = replace(dataset, imitated=imitated, meaning=imitated.meaning)
    model.cpu()
    print(
        f"data {dataset.name}: {len(found.train.labels)} images without labels to train on, {len(found.test.labels)} "
        f"to test; accuracy is {found.meaning}",
        file=sys.stderr,
    )
    return found


def dataset_of(run: Path, trust: str | None) -> data.Dataset:
    """The data set that ``run`` was begun with, labelled by its original network where it has no labels.

    ``trust`` is as in `model_names.build`. Raises InputError as `train.data.load` and `labelled` do.
    """
    dataset = inputs.dataset(config.settings(run, PRETRAIN.command, PretrainSettings))
    return dataset if dataset.classes else labelled(dataset, checkpoints.load(run / PRETRAIN.file, trust)[0])


def taught(run: Path, recipe: Recipe, settings: Settings) -> Settings:
    """``settings``, with the original network for the only teacher where the images of ``run`` have no labels.

    Raises InputError for another share of the loss, where the ``recipe`` of the network has no classes to learn.
    """
    given = config.settings(run, PRETRAIN.command, PretrainSettings)
    if data.has_labels(given.data):
        return replace(settings, distill=settings.distill or 0.0)
    if settings.distill is None:
        print("note: the images have no labels, so the original network is the teacher: --distill 1", file=sys.stderr)
        return replace(settings, distill=1.0)
    if settings.distill < 1 and not recipe.classes:
        raise InputError(
            f"--distill {settings.distill:g}: neither the images nor the network have classes, so the outputs of the "
            "original network are all that there is to learn; leave --distill out"
        )
    return settings


def _sample(dataset: data.Dataset) -> Tensor:
    """Training images, normalised, the first of those in calib.npz, where the network will be."""
    split = data.calibration_images(dataset, SAMPLE, 0)
    return normalise(split.images.to(best_device()), dataset.mean, dataset.std)


def _with_classes(dataset: data.Dataset, model: nn.Module, classes: int) -> data.Dataset:
    """``dataset``, with the class of each image that ``model``, in eval mode, gives."""
    train, test = (_with_labels(dataset, split, model) for split in (dataset.train, dataset.test))
    return replace(dataset, classes=tuple(map(str, range(classes))), train=train, test=test)


@torch.no_grad()
def _with_labels(dataset: data.Dataset, split: data.Split | Files, model: nn.Module) -> data.Split | Files:
    where = next(model.parameters()).device
    batches = test_batches(replace(dataset, test=split), loop.EVAL_BATCH, where)
    return replace(split, labels=torch.cat([model(images).argmax(1).cpu() for images, _ in batches]))
