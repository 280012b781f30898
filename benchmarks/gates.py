"""What gates cost: a training step of ResNet-20 with them against the same network without."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.measure import Progress, Row, interleave
from layer_folding.fold import depth_penalty, gates, linearize
from layer_folding.fold.models import build
from layer_folding.train import memory

ROUNDS = 15


def run(progress: Progress) -> list[Row]:
    """Batches of 64 and 128, stored channels last and with memory kept, as `train.loop` does."""
    memory.keep_freed()
    return [step_times(batch, ROUNDS, progress) for batch in (64, 128)]


def step_times(batch: int, rounds: int, progress: Progress) -> Row:
    """Forward and backward pass with the loss, without and with the depth penalty; no optimiser step."""
    torch.manual_seed(0)
    images = torch.randn(batch, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch,))
    model = build("resnet20", 10)
    networks = {"no gates": model} | {f"gates: {g}": linearize(model, images[:1], gate=g) for g in ("foldable", "all")}
    contenders = {
        name: partial(_step, network.to(memory_format=torch.channels_last).train(), images, labels)
        for name, network in networks.items()
    }
    return interleave(f"ResNet-20, batch {batch}", contenders, rounds, progress)


def _step(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    loss = F.cross_entropy(network(images), labels)
    if gates(network):
        loss = loss + 0.25 * depth_penalty(network)
    network.zero_grad()
    loss.backward()
