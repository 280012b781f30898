"""The training of Layer Folding (Ben Dror et al., BMVC 2022, arXiv 2106.09309), written anew, for comparison.

Gates are the formula of the paper, its loss has `lambda |1 - alpha^2|` for each, and the loop and its settings are
those of the code that its authors published: plain SGD on PIL images that the main process transforms one at a time.
"""

import copy
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import datasets, transforms

from layer_folding.fold import gates, hoist_padding, linearize
from layer_folding.fold.devices import best_device
from layer_folding.train import loop
from layer_folding.train.data import Dataset

PENALTY, THRESHOLD = 0.25, 0.9  # lambda, and from where on a gate is open
RATE, MOMENTUM, BATCH = 1e-3, 0.9, 128


class Gate(nn.Module):
    """A gate as the published code has it: every term is computed and kept for the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.alpha * x + F.relu(x) - self.alpha * F.relu(x)


@dataclass(frozen=True)
class Trained:
    """What the recipe gave: ``model``, hardened and fine-tuned, without the activations ``removed``.

    ``accuracy`` is a fraction after each step: with gates ("prefold"), without those that opened ("removed"), with
    hoisted padding ("hoisted"), and fine-tuned ("hardened"). ``seconds`` has those of each epoch with gates.
    """

    model: nn.Module
    removed: tuple[str, ...]
    accuracy: Mapping[str, float]
    seconds: tuple[float, ...]


def train(model: nn.Module, dataset: Dataset, epochs: int, seed: int) -> Trained:
    """Train ``model`` with gates for ``epochs``, remove what opened, and fine-tune for as many ``epochs`` again.

    The images of ``dataset`` are in memory; ``model`` stays as it is.
    """
    torch.manual_seed(seed)
    where = best_device()
    example = torch.zeros(1, *dataset.shape, device=where)
    gated, named = with_gates(copy.deepcopy(model).to(where), example)
    batches, optimizer = loader(dataset, BATCH), sgd(gated)
    seconds = []
    for _ in range(epochs):
        start = time.perf_counter()
        epoch(gated, optimizer, batches, list(named.values()))
        seconds.append(time.perf_counter() - start)
    accuracy = {"prefold": loop.accuracy(gated, dataset)}
    removed = tuple(name for name, gate in named.items() if gate.alpha >= THRESHOLD)
    for name in named:
        gated.set_submodule(name, nn.Identity() if name in removed else nn.ReLU())
    accuracy["removed"] = loop.accuracy(gated, dataset)
    hard, _ = hoist_padding(gated.eval(), example)
    accuracy["hoisted"] = loop.accuracy(hard, dataset)
    optimizer = sgd(hard)
    for _ in range(epochs):
        epoch(hard, optimizer, batches, [])
    accuracy["hardened"] = loop.accuracy(hard, dataset)
    return Trained(hard.cpu().eval(), removed, accuracy, tuple(seconds))


def with_gates(model: nn.Module, example: Tensor) -> tuple[nn.Module, dict[str, Gate]]:
    """A copy of ``model`` with gates on its activations but the first, which has none there; and the gates by name."""
    gated = linearize(model, example, gate="all")
    first, *others = gates(gated)
    gated.set_submodule(first, nn.ReLU())
    named = {name: Gate() for name in others}
    for name, gate in named.items():
        gated.set_submodule(name, gate.to(example.device))
    return gated, named


def loader(dataset: Dataset, batch: int) -> Iterable[tuple[Tensor, Tensor]]:
    """Shuffled batches of the training images of ``dataset``, each image mirrored, cropped and normalised by itself."""
    images = datasets.CIFAR10.__new__(datasets.CIFAR10)  # how it gives images, without its files
    images.data = dataset.train.images.permute(0, 2, 3, 1).contiguous().numpy()
    images.targets = dataset.train.labels.tolist()
    size = dataset.train.images.shape[-1]
    moves = (transforms.RandomHorizontalFlip(), transforms.RandomCrop(size, 4))
    images.transform = transforms.Compose(
        [*moves, transforms.ToTensor(), transforms.Normalize(dataset.mean, dataset.std)]
    )
    images.target_transform = None
    return torch.utils.data.DataLoader(images, batch, shuffle=True, num_workers=0)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of the published code, for all parameters of ``model`` alike."""
    return torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)


def epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[tuple[Tensor, Tensor]],
    known: Sequence[Gate],
) -> None:
    """One pass over ``batches``, with the penalty of the gates ``known``, whose alphas stay at or above 0."""
    model.train()
    where = next(model.parameters()).device
    for images, labels in batches:
        loss = F.cross_entropy(model(images.to(where)), labels.to(where))
        for gate in known:
            loss = loss + PENALTY * (1 - gate.alpha[0] * gate.alpha[0]).abs()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for gate in known:
                gate.alpha.clamp_(min=0)
