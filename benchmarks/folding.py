"""`fold.fold` from end to end: trace, find regions, compose, emit, and compare in float64."""

from functools import partial

import torch
from torch import fx

from benchmarks.measure import Progress, Row, interleave
from layer_folding.errors import CheckError
from layer_folding.fold import fold, gates, harden, hoist_padding, linearize
from layer_folding.fold.models.cifar_resnet import CifarResNet

ROUNDS = 10


def run(progress: Progress) -> list[Row]:
    """ResNet-20 and ResNet-56 with the activation within every block gone."""
    return [whole(f"ResNet-{depth}, {(depth - 2) // 2} pairs", depth, ROUNDS, progress) for depth in (20, 56)]


def whole(name: str, depth: int, rounds: int, progress: Progress) -> Row:
    """Time `fold.fold` on ``ready_to_fold(depth)``. Raises CheckError if not every block was folded."""
    model, example = ready_to_fold(depth)
    folded = len(fold(model, example).folded)
    if folded != (depth - 2) // 2:
        raise CheckError(f"{name}: {folded} were folded; please report this")
    return interleave(name, {"fold.fold with its check": partial(fold, model, example)}, rounds, progress)


def ready_to_fold(depth: int) -> tuple[fx.GraphModule, torch.Tensor]:
    """A CIFAR ResNet without in-block activations, its padding hoisted, in eval mode; and an image `[1, 3, 32, 32]`."""
    example = torch.zeros(1, 3, 32, 32)
    gated = linearize(CifarResNet(depth, num_classes=10).eval(), example)
    for gate in gates(gated).values():
        gate.alpha.data.fill_(1)
    return hoist_padding(harden(gated), example)[0], example
