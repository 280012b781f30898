"""Evaluate: the accuracy of a checkpoint."""

from dataclasses import dataclass
from pathlib import Path

from layer_folding.errors import InputError
from layer_folding.fold import checkpoints

from . import loop
from .data import Dataset


@dataclass(frozen=True)
class Evaluation:
    """The fraction of ``images`` test images that the network at ``path`` classifies right."""

    path: Path
    accuracy: float
    images: int


def evaluate(path: Path, dataset: Dataset, trust: str | None = None) -> Evaluation:
    """The accuracy of a checkpoint on the test images of ``dataset``. ``trust`` is as in `model_names.build`.

    Raises InputError for a checkpoint that cannot be loaded, for one that takes other images, and for images without
    labels.
    """
    if not dataset.classes:
        raise InputError(f"data {dataset.name}: has no labels; lay it out as train/CLASS/*.jpg and test/CLASS/*.jpg")
    model, recipe = checkpoints.load(path, trust)
    if recipe.input_shape != dataset.shape:
        raise InputError(f"{path}: takes images {list(recipe.input_shape)}, not {list(dataset.shape)} as in --data")
    return Evaluation(path, loop.accuracy(model, dataset), len(dataset.test.labels))
