"""Labels for images that have none: the classes that the original network gives. Accuracy is then agreement with it."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from layer_folding.errors import InputError
from layer_folding.fold import checkpoints
from layer_folding.fold.devices import best_device
from layer_folding.stages import PRETRAIN

from . import config, data, inputs, loop
from .batches import test_batches
from .hyperparameters import Distilled
from .settings import PretrainSettings

Settings = TypeVar("Settings", bound=Distilled)


def labelled(dataset: data.Dataset, model: nn.Module) -> data.Dataset:
    """``dataset``, whose images have no labels, with the classes that ``model`` gives for them. Says so on stderr.

    ``model`` ends in eval mode on the CPU. Raises InputError where it does not give a score for each class.
    """
    where = best_device()
    model.to(where).eval()
    splits, classes = [], 0
    for split in (dataset.train, dataset.test):
        found = []
        with torch.no_grad():
            for images, _ in test_batches(replace(dataset, test=split), loop.EVAL_BATCH, where):
                scores = model(images)
                if not isinstance(scores, torch.Tensor) or scores.ndim != 2 or scores.shape[1] < 2:
                    raise InputError(
                        f"data {dataset.name}: its images have no labels, and the network gives no score for each "
                        "class that could take their place; train it in a loop of your own (docs/own-model.md)"
                    )
                classes = scores.shape[1]
                found.append(scores.argmax(1).cpu())
        splits.append(replace(split, labels=torch.cat(found)))
    model.cpu()
    train, test = splits
    print(
        f"data {dataset.name}: {len(train.labels)} images without labels to train on, {len(test.labels)} to test; "
        "accuracy is agreement with the original network",
        file=sys.stderr,
    )
    return replace(dataset, classes=tuple(map(str, range(classes))), train=train, test=test)


def dataset_of(run: Path, trust: str | None) -> data.Dataset:
    """The data set that ``run`` was begun with, labelled by its original network where it has no labels.

    ``trust`` is as in `model_names.build`. Raises InputError as `train.data.load` and `labelled` do.
    """
    dataset = inputs.dataset(config.settings(run, PRETRAIN.command, PretrainSettings))
    return dataset if dataset.classes else labelled(dataset, checkpoints.load(run / PRETRAIN.file, trust)[0])


def taught(run: Path, settings: Settings) -> Settings:
    """``settings``, with the original network for the only teacher where the images of ``run`` have no labels."""
    given = config.settings(run, PRETRAIN.command, PretrainSettings)
    if settings.distill or data.has_labels(given.data):
        return settings
    print("note: the images have no labels, so the original network is the teacher: --distill 1", file=sys.stderr)
    return replace(settings, distill=1.0)
