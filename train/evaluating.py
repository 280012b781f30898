"""Evaluate: the accuracy of checkpoints, or how much they agree with the original network of their run folder."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from torch import nn

from layer_folding.errors import InputError
from layer_folding.fold import checkpoints
from layer_folding.stages import PRETRAIN

from . import loop
from .data import Dataset
from .labelling import labelled


@dataclass(frozen=True)
class Evaluation:
    """The ``accuracy``, from 0 to 1, of the network at ``path`` on ``images`` test images, and what it means."""

    path: Path
    accuracy: float
    meaning: str
    images: int


def evaluate(paths: Sequence[Path], dataset: Dataset, trust: str | None = None) -> Iterator[Evaluation]:
    """The accuracy of each checkpoint on the test images of ``dataset``. ``trust`` is as in `model_names.build`.

    Where the images have no labels, the original network in the folder of a checkpoint says what it is to give.
    Raises InputError for a checkpoint that cannot be loaded, for one that takes other images, and where that original
    network is missing.
    """

    @cache
    def imitating(original: Path) -> Dataset:
        return labelled(dataset, _network(original, dataset, trust))

    for path in paths:
        model = _network(path, dataset, trust)
        given = dataset if dataset.classes else imitating(_original_of(path, dataset))
        yield Evaluation(path, loop.accuracy(model, given), given.meaning, len(given.test.labels))


def _original_of(path: Path, dataset: Dataset) -> Path:
    original = path.parent / PRETRAIN.file
    if not original.is_file():
        raise InputError(
            f"{original}: no such file; the images of {dataset.name} have no labels, so {path.name} is compared with "
            "the original network of its run folder: give checkpoints in their run folder, or images with labels"
        )
    return original


def _network(path: Path, dataset: Dataset, trust: str | None) -> nn.Module:
    model, recipe = checkpoints.load(path, trust)
    if recipe.input_shape != dataset.shape:
        raise InputError(f"{path}: takes images {list(recipe.input_shape)}, not {list(dataset.shape)} as in --data")
    return model
