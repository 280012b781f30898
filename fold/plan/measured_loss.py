"""What a changed network loses, measured: accuracy on labelled images, or divergence of the outputs without labels."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layer_folding.errors import CheckError, InputError
from layer_folding.plans import Loss

from ..batch_norms import BATCH
from ..fitting.divergences import measure_of
from ..graph.preparing import private_copy

POINTS, NATS = "points of accuracy", "nats of KL divergence"
_Z = 1.96  # of a 95 % interval


def loss_of(original: nn.Module, images: Tensor, labels: Tensor | None) -> Callable[[nn.Module], Loss]:
    """A function that says what a network loses against ``original`` on ``images``, `[N, C, *spatial]`, normalised.

    With ``labels``, `[N]`, the loss is the accuracy of ``original`` minus that of the network, in points: hundredths of
    the images. Both networks see the same images, so the error of the loss is that of the pairs, which is far smaller
    than those of the two accuracies. Without labels it is the mean of KL(original || network), in nats.

    Raises InputError where labels and images are not as many, and for outputs that are no scores of classes; the
    function raises CheckError for a loss that is no number.
    """
    if labels is not None and len(labels) != len(images):
        raise InputError(f"held_out: {len(images)} images with {len(labels)} labels; give one for each")
    expected = _outputs(private_copy(original, share_weights=True), images)
    if labels is None:
        _require_scores(expected)
        return lambda network: _divergence(expected, _outputs(network, images))
    right = _right(expected, labels)
    return lambda network: _points(right, _right(_outputs(network, images), labels))


def _points(before: Tensor, after: Tensor) -> Loss:
    """By which images each of two networks has right. With the half image more a cell of Agresti and Min (2005), the
    error is above 0 where no image changes."""
    count = len(before)
    lost, won = int((before & ~after).sum()), int((after & ~before).sum())
    spread = math.sqrt(lost + won + 1 - (lost - won) ** 2 / (count + 2)) / (count + 2)
    return Loss(100 * (lost - won) / count, 100 * _Z * spread)


def _divergence(expected: Tensor, actual: Tensor) -> Loss:
    wanted, given = expected.double().log_softmax(1), actual.double().log_softmax(1)
    divergences = F.kl_div(given, wanted, log_target=True, reduction="none").sum(1).reshape(len(actual), -1).mean(1)
    mean = divergences.mean().item()
    if not math.isfinite(mean):
        raise CheckError(f"the divergence of the network's outputs on the images held out is {mean}")
    return Loss(mean, _Z * divergences.std(unbiased=False).item() / math.sqrt(len(divergences)))


def _require_scores(outputs: Tensor) -> None:
    """Raise InputError where ``outputs`` of a network are not compared by their classes."""
    if measure_of([outputs]).scales is not None:
        raise InputError(
            f"held_out: the network gives {list(outputs.shape)}, which are no scores of classes, so its loss is not in "
            "nats; plan by a speed-up or a budget, from the importance of each fit"
        )


def _right(outputs: Tensor, labels: Tensor) -> Tensor:
    """Which images are put in their class; ``outputs`` that are no number are wrong."""
    if outputs.ndim != 2:
        raise InputError(f"held_out: labels are for a network that gives [N, classes], not {list(outputs.shape)}")
    return (outputs.argmax(1) == labels) & outputs.isfinite().all(1)


@torch.no_grad()
def _outputs(network: nn.Module, images: Tensor) -> Tensor:
    network.eval()
    found = [network(batch) for batch in images.split(BATCH)]
    if not isinstance(found[0], Tensor):
        raise InputError(
            f"the network gives a {type(found[0]).__name__}, and the loss of a whole plan is measured on one tensor; "
            "plan by a speed-up or a budget, from the importance of each fit"
        )
    return torch.cat(found)
