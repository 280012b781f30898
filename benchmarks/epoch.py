"""Part of an epoch of prefold on images like CIFAR-10's: our batches against a loop as the original's has it.

There each image becomes a PIL image in the main process, which is mirrored, cropped, made a tensor and normalised one
at a time, and gates and penalty are the formulas of the paper.
"""

from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import published_recipe
from benchmarks.measure import Progress, Row, interleave
from layer_folding.fold import depth_penalty, linearize
from layer_folding.fold.models import build
from layer_folding.train.batches import training_batches
from layer_folding.train.data import RGB_MEAN, RGB_STD, Dataset, Split

ROUNDS, STEPS, BATCH = 8, 4, 128
CPU = torch.device("cpu")
EXAMPLE = torch.zeros(1, 3, 32, 32)


def run(progress: Progress) -> list[Row]:
    """ResNet-20 with all its gates, batches of 128."""
    return [part_of_epoch(BATCH, STEPS, ROUNDS, progress)]


def part_of_epoch(batch: int, steps: int, rounds: int, progress: Progress) -> Row:
    """``steps`` steps, each with data, forward and backward pass and optimiser step."""
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (batch * steps, 3, 32, 32), np.uint8))
    split = Split(pixels, torch.arange(len(pixels)) % 10)
    dataset = Dataset("random", tuple("0123456789"), split, split, RGB_MEAN, RGB_STD, flip=True)
    contenders = {"PIL images, main process": _published(dataset, batch), "train": _ours(dataset, batch)}
    return interleave(f"ResNet-20, {steps} batches of {batch}", contenders, rounds, progress)


def _ours(dataset: Dataset, batch: int) -> Callable[[], None]:
    model = linearize(_network(), EXAMPLE, gate="all").to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(0)

    def part() -> None:
        shuffled = training_batches(dataset, batch, generator, CPU)
        _train(model, ((x.contiguous(memory_format=torch.channels_last), y) for x, y in shuffled), depth_penalty)

    return part


def _published(dataset: Dataset, batch: int) -> Callable[[], None]:
    model, known = published_recipe.with_gates(_network(), EXAMPLE)
    optimizer, batches = published_recipe.sgd(model), published_recipe.loader(dataset, batch)
    return partial(published_recipe.epoch, model, optimizer, batches, list(known.values()))


def _network() -> nn.Module:
    torch.manual_seed(0)
    return build("resnet20")


def _train(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], penalty: Callable) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    model.train()
    for images, labels in batches:
        loss = F.cross_entropy(model(images), labels) + 0.25 * penalty(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
