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
from torchvision import datasets, transforms

from benchmarks.measure import Progress, Row, interleave
from layer_folding.fold import depth_penalty, gates, linearize
from layer_folding.fold.models import build
from layer_folding.train.batches import training_batches
from layer_folding.train.data import RGB_MEAN, RGB_STD, Dataset, Split

ROUNDS, STEPS, BATCH = 8, 4, 128
CPU = torch.device("cpu")


class PublishedGate(nn.Module):
    """A gate as the published code has it: every term is computed and kept for the backward pass."""

    def __init__(self):
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.alpha * x + F.relu(x) - self.alpha * F.relu(x)


def run(progress: Progress) -> list[Row]:
    """ResNet-20 with all its gates, batches of 128."""
    return [part_of_epoch(BATCH, STEPS, ROUNDS, progress)]


def part_of_epoch(batch: int, steps: int, rounds: int, progress: Progress) -> Row:
    """``steps`` steps, each with data, forward and backward pass and optimiser step."""
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (batch * steps, 3, 32, 32), np.uint8))
    labels = torch.arange(len(pixels)) % 10
    contenders = {"PIL images, main process": _published(pixels, labels, batch), "train": _ours(pixels, labels, batch)}
    return interleave(f"ResNet-20, {steps} batches of {batch}", contenders, rounds, progress)


def _ours(pixels: Tensor, labels: Tensor, batch: int) -> Callable[[], None]:
    split = Split(pixels, labels)
    dataset = Dataset("random", tuple("0123456789"), split, split, RGB_MEAN, RGB_STD, flip=True)
    model = _gated().to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(0)

    def part() -> None:
        shuffled = training_batches(dataset, batch, generator, CPU)
        _train(model, ((x.contiguous(memory_format=torch.channels_last), y) for x, y in shuffled), depth_penalty)

    return part


def _published(pixels: Tensor, labels: Tensor, batch: int) -> Callable[[], None]:
    cifar = datasets.CIFAR10.__new__(datasets.CIFAR10)  # how it gives images, without its files
    cifar.data, cifar.targets = pixels.permute(0, 2, 3, 1).contiguous().numpy(), labels.tolist()
    moves = (transforms.RandomHorizontalFlip(), transforms.RandomCrop(32, 4))
    cifar.transform = transforms.Compose([*moves, transforms.ToTensor(), transforms.Normalize(RGB_MEAN, RGB_STD)])
    cifar.target_transform = None
    model = _gated()
    alphas = []
    for name in gates(model):
        model.set_submodule(name, PublishedGate())
        alphas.append(model.get_submodule(name).alpha)
    loader = torch.utils.data.DataLoader(cifar, batch, shuffle=True, num_workers=0)
    return partial(_train, model, loader, lambda _: sum(abs(1 - alpha[0] * alpha[0]) for alpha in alphas))


def _gated() -> nn.Module:
    torch.manual_seed(0)
    return linearize(build("resnet20"), torch.zeros(1, 3, 32, 32), gate="all")


def _train(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], penalty: Callable) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    model.train()
    for images, labels in batches:
        loss = F.cross_entropy(model(images), labels) + 0.25 * penalty(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
