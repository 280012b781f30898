"""What a changed network loses, measured: accuracy on labelled images, or divergence of the outputs without labels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from layer_folding.errors import CheckError, InputError
from layer_folding.plans import Loss

from ..batch_norms import BATCH
from ..fitting.divergences import tensors_of
from ..fitting.imitation import SAMPLE, Imitation, imitation_of
from ..graph.preparing import private_copy

POINTS, NATS, VARIANCES = "points of accuracy", "nats of KL divergence", "variances of the outputs"
_Z = 1.96  # of a 95 % interval


@dataclass(frozen=True)
class LossMeasure:
    """What a network loses is ``of(network)``, in ``unit``."""

    unit: str
    of: Callable[[nn.Module], Loss]


def loss_of(original: nn.Module, images: Tensor, labels: Tensor | None) -> LossMeasure:
    """What networks lose against ``original`` on ``images``, `[N, C, *spatial]`, normalised.

    With ``labels``, `[N]`, the loss is the accuracy of ``original`` minus that of the network, in points: hundredths of
    the images. Both networks see the same images, so the error of the loss is that of the pairs, which is far smaller
    than those of the two accuracies. Without labels it is the mean of KL(original || network), in nats, and for outputs
    that are no scores of classes their squared error over their variance.

    Raises InputError where labels and images are not as many, for labels of a network that gives no class for an image,
    and for outputs that cannot be compared; ``of`` raises CheckError for a loss that is no number.
    """
    original = private_copy(original, share_weights=True)
    if labels is None:
        imitation = imitation_of(original, images[:SAMPLE])
        unit = NATS if imitation.measure.scales is None else VARIANCES
        return LossMeasure(unit, lambda network: _divergence(imitation, network.eval(), images))
    if len(labels) != len(images):
        raise InputError(f"held_out: {len(images)} images with {len(labels)} labels; give one for each")
    right = _right(original, images, labels)
    return LossMeasure(POINTS, lambda network: _points(right, _right(network.eval(), images, labels)))


def _points(before: Tensor, after: Tensor) -> Loss:
    """By which images each of two networks has right. With the half image more a cell of Agresti and Min (2005), the
    error is above 0 where no image changes."""
    count = len(before)
    lost, won = int((before & ~after).sum()), int((after & ~before).sum())
    spread = math.sqrt(lost + won + 1 - (lost - won) ** 2 / (count + 2)) / (count + 2)
    return Loss(100 * (lost - won) / count, 100 * _Z * spread)


@torch.no_grad()
def _divergence(imitation: Imitation, network: nn.Module, images: Tensor) -> Loss:
    """The original network runs again each time, because its outputs for all images may not fit in memory."""
    found = []
    for x in images.split(imitation.batch):
        outputs = ([y.double().split(1) for y in tensors_of(model(x))] for model in (imitation.original, network))
        expected, given = (zip(*tensors, strict=True) for tensors in outputs)  # image by image
        found += [imitation.measure.mean(a, b) for a, b in zip(expected, given, strict=True)]
    divergences = torch.stack(found)
    mean = divergences.mean().item()
    if not math.isfinite(mean):
        raise CheckError(f"the divergence of the network's outputs on the images held out is {mean}")
    return Loss(mean, _Z * divergences.std(unbiased=False).item() / math.sqrt(len(divergences)))


@torch.no_grad()
def _right(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Which images ``network`` puts in their class; outputs that are no number are wrong."""
    found = []
    for x, classes in zip(images.split(BATCH), labels.split(BATCH), strict=True):
        scores = network(x)
        if not isinstance(scores, Tensor) or scores.ndim != 2:
            given = list(scores.shape) if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
            raise InputError(
                f"held_out: labels are for a network that gives [N, classes], not {given}; give the images alone "
                "(--unlabelled)"
            )
        found.append((scores.argmax(1) == classes) & scores.isfinite().all(1))
    return torch.cat(found)
