"""What a network loses with each set of its activations, from gates or from images.

Candidates with an addition (`fold.graph.changes`) get no loss here, since only training can use an addition.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layer_folding.errors import CheckError
from layer_folding.importance_tables import Importance

from ..batch_norms import BATCH, take_statistics
from ..graph.changes import remove
from ..graph.preparing import private_copy
from ..graph.tracing import trace
from ..regions.padding import hoist_padding

Set = tuple[str, ...]  # the activations of one candidate


def from_gates(alphas: Mapping[str, float], sets: Collection[Set]) -> Importance:
    """By the gates of a prefold run: an activation whose gate is at ``alpha`` loses 1 - alpha, none below 0.

    Activations without a gate count as closed. Raises CheckError as `computed` does.
    """
    losses = {names: sum(_at_least_zero(1 - alphas.get(name, 0.0)) for name in names) for names in sets}
    return computed(losses, "gates closed")


def one_shot(
    model: nn.Module, images: Tensor, labels: Tensor, sets: Collection[Set], progress: Callable[[], object]
) -> Importance:
    """How much larger the cross entropy on some images is without each set of activations, with no training.

    Padding is hoisted, as it will be, and BatchNorm statistics are taken anew from the images: for the network as it is
    too, to which the others are compared.

    Args:
        model: the trained network; it is not modified.
        images: normalised, `[N, C, H, W]`, not those that the result is tested on.
        labels: `[N]`.
        progress: is called whenever a set is done.

    Raises:
        CheckError: a loss is no number.
    """
    example = images[:1]
    before = _loss(private_copy(model, share_weights=False), images, labels)
    losses: dict[Set, float] = {}
    for activations in sets:
        bare, _ = hoist_padding(remove(trace(model, example), list(activations)), example)
        losses[activations] = more(_loss(bare, images, labels), before)
        progress()
    return computed(losses, "cross entropy")


def computed(losses: Mapping[Set, float], unit: str) -> Importance:
    """The importance that was computed as ``losses``. Raises CheckError where a loss is no number."""
    bad = next((item for item in losses.items() if not math.isfinite(item[1])), None)
    if bad is not None:
        raise CheckError(f"without {' '.join(bad[0]) or 'any change'} the loss is {bad[1]}, which is no importance")
    return Importance(losses, unit)


def more(loss: float, before: float) -> float:
    """How much larger ``loss`` is than ``before``, 0 at least."""
    return _at_least_zero(loss - before)


def _at_least_zero(value: float) -> float:
    return 0.0 if value < 0 else value  # max(0.0, nan) is 0.0: a NaN would pass for "nothing is lost"


def _loss(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The mean cross entropy with BatchNorm statistics of these images, which are set in place."""
    take_statistics(model, images)
    return cross_entropy(model, images, labels)


@torch.no_grad()
def cross_entropy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The mean over ``images``, normalised, `[N, C, H, W]`, of which `[N]` are the classes; ``model`` in eval mode.

    Raises CheckError where the result is no number.
    """
    return cross_entropy_of((model(x) for x in images.split(BATCH)), labels.split(BATCH))


def cross_entropy_of(scores: Iterable[Tensor], labels: Sequence[Tensor]) -> float:
    """As `cross_entropy`, of ``scores`` `[N, classes]` and their ``labels``, batch by batch."""
    total = sum(F.cross_entropy(x, y, reduction="sum").item() for x, y in zip(scores, labels, strict=True))
    if not math.isfinite(total):
        raise CheckError(f"the network's cross entropy on these images is {total}; check its weights and the images")
    return total / sum(map(len, labels))
