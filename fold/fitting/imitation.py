"""How much of the outputs of an original network another network gives: the accuracy where images have no labels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from layer_folding.errors import CheckError, InputError

from .divergences import Divergence, OutputMeasure, measure_of, tensors_of

SAMPLE = 64  # images, at most, whose outputs give the measure
_FEWEST = 16
_BATCH = 256
_BYTES = 2**26  # of the outputs for a batch, of which a comparison makes several copies in float64


@dataclass(frozen=True)
class Imitation:
    """The outputs of the network ``original``, in eval mode, as those that another network is to give; `imitation_of`.

    Args:
        measure: how far outputs are from these.
        classes: of how many classes the outputs are scores; None for other outputs.
        batch: images at a time, so that their outputs fit in memory.
        spatial: there are scores for each position of an image, not for the image.
    """

    original: nn.Module
    measure: OutputMeasure
    classes: int | None
    batch: int
    spatial: bool

    @property
    def guessing(self) -> float:
        """The distance of a network that knows nothing: the same score for all classes, or the mean of each channel."""
        return 1.0 if self.classes is None else math.log(self.classes)

    @property
    def meaning(self) -> str:
        """What `accuracy` is, as a phrase."""
        if self.classes is None:
            return "the share of the variance of the original network's outputs that is reproduced"
        where = "pixels" if self.spatial else "images"
        return f"agreement with the original network, the share of {where} with the same class"

    def accuracy(self, model: nn.Module, batches: Iterable[Tensor]) -> float:
        """From 0 to 1: the `Divergence.fidelity` of `divergence`. Raises as that does."""
        return self.divergence(model, batches).fidelity

    @torch.no_grad()
    def divergence(self, model: nn.Module, batches: Iterable[Tensor]) -> Divergence:
        """How far ``model``, in eval mode, is from the original network on ``batches`` of images `[N, C, H, W]`.

        The original network is moved to the device of ``model``. Raises CheckError as `require_finite` does.
        """
        self.original.to(next(model.parameters()).device)
        total = Divergence(self.measure)
        for x in batches:
            expected, given = tensors_of(self.original(x)), tensors_of(model(x))
            require_finite([*expected, *given])
            total.add(expected, given)
        return total


@torch.no_grad()
def imitation_of(original: nn.Module, images: Tensor) -> Imitation:
    """How to compare with ``original``, in eval mode, by its outputs for the first of ``images``.

    The ``images`` are `[N, C, H, W]`, normalised, on the device of ``original``; `SAMPLE` are enough. Raises InputError
    where the outputs cannot be compared.
    """
    first = tensors_of(original(images[:1]))
    if not first or any(len(values) != 1 for values in first):
        raise InputError("the network gives no tensors of floating-point numbers, [N, ...], that could be compared")
    batch = max(1, min(_BATCH, _BYTES // max(sum(values.nbytes for values in first), 1)))
    found = [tensors_of(original(x)) for x in images[: min(SAMPLE, max(batch, _FEWEST))].split(batch)]
    outputs = tuple(torch.cat(parts).cpu() for parts in zip(*found, strict=True))
    if not all(values.isfinite().all() for values in outputs):
        raise InputError("the network gives NaN or infinity, which no other network could be compared with")
    measure = measure_of(outputs)
    classes = outputs[0].shape[1] if measure.scales is None else None
    return Imitation(original, measure, classes, batch, spatial=outputs[0].ndim > 2)


def require_finite(outputs: Sequence[Tensor]) -> None:
    """Raise CheckError where there is a NaN or an infinity in ``outputs``."""
    if not all(values.isfinite().all() for values in outputs):
        raise CheckError(
            "the network gives NaN or infinity for test images; look for values that explode, in its weights "
            "or where an activation is removed"
        )
