"""How far the outputs of two networks are apart, without labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..graph.comparing import tensors_in


@dataclass(frozen=True)
class OutputMeasure:
    """How far outputs are from those of the original network, for outputs of one kind; from `measure_of`.

    Scores of classes are compared by KL(original || changed), in nats. Other outputs are compared by their squared
    error: for each channel over its variance, or in ``scales``, one tensor of as many axes as each output has.
    """

    scales: tuple[Tensor, ...] | None

    def mean(self, original: Sequence[Tensor], changed: Sequence[Tensor]) -> Tensor:
        """The mean over images and positions, through which gradients flow to ``changed``."""
        if self.scales is None:
            expected, actual = original[0].log_softmax(1), changed[0].log_softmax(1)
            total = F.kl_div(actual, expected, log_target=True, reduction="sum")
            return total / (actual.numel() // actual.shape[1])
        errors = [
            ((b - a).square() / scale.to(a)).mean() for a, b, scale in zip(original, changed, self.scales, strict=True)
        ]
        return torch.stack(errors).mean()


def tensors_of(output: object) -> tuple[Tensor, ...]:
    """The tensors of an output `[N, ...]` that can be compared: those of floating-point numbers."""
    return tuple(tensor for tensor in tensors_in(output) if tensor.is_floating_point() and tensor.ndim > 1)


def measure_of(expected: Sequence[Tensor]) -> OutputMeasure:
    """How to compare with the outputs ``expected`` of the original network.

    One output `[N, classes]` or `[N, classes, *spatial]` of two or three axes in space is taken for scores of classes.
    """
    if len(expected) == 1 and expected[0].ndim != 3 and expected[0].shape[1] > 1:
        return OutputMeasure(None)
    return OutputMeasure(tuple(map(_scale, expected)))


def _scale(values: Tensor) -> Tensor:
    """The variance of each channel; of `[N, M, C]` and `[N, C, M]`, channels are on the axis that is shorter."""
    axis = 2 if values.ndim == 3 and values.shape[2] < values.shape[1] else 1
    axes = [other for other in range(values.ndim) if other != axis]
    values = values.double()
    smallest = 1e-6 * values.square().mean(axes, keepdim=True)  # of a channel that is constant
    return values.var(axes, correction=0, keepdim=True) + smallest + torch.finfo(torch.float32).tiny


class Divergence:
    """The mean distance of outputs from the original's over images, and the share of images with the same class first.

    By the ``measure`` for these outputs, see `OutputMeasure`.
    """

    def __init__(self, measure: OutputMeasure) -> None:
        self._measure = measure
        self._total, self._images, self._same, self._count = 0.0, 0, 0, 0

    @torch.no_grad()
    def add(self, original: Sequence[Tensor], changed: Sequence[Tensor]) -> None:
        """Take in the outputs for a batch of images."""
        original, changed = [x.double() for x in original], [x.double() for x in changed]
        self._total += len(original[0]) * self._measure.mean(original, changed).item()
        self._images += len(original[0])
        if self._measure.scales is None:
            same = original[0].argmax(1) == changed[0].argmax(1)
            self._same, self._count = self._same + int(same.sum()), self._count + same.numel()

    @property
    def mean(self) -> float:
        """In nats, or relative to the variance of the outputs; 0 or more."""
        return self._total / self._images

    @property
    def agreement(self) -> float | None:
        """From 0 to 1; None where the outputs are no scores of classes."""
        return self._same / self._count if self._count else None

    @property
    def fidelity(self) -> float:
        """From 0 to 1, which equal outputs have: the `agreement`, else the share of the variance that is reproduced.

        This share is 1 minus the `mean`, and 0 where the mean of each channel would be as close.
        """
        return max(0.0, 1 - self.mean) if self.agreement is None else self.agreement


class RelativeError:
    """The root of the squared error over that of the best constant per channel: at 1, the mean would do as well."""

    def __init__(self, axes: int):
        self._axes = axes
        self._error, self._count, self._sum, self._square = 0.0, 0, torch.zeros(()), torch.zeros(())

    @torch.no_grad()
    def add(self, expected: Tensor, actual: Tensor) -> None:
        """Take in values for a batch of images, `[batch, channels, *spatial]`, or without axes `[..., channels]`."""
        expected = expected.double()
        positions = (0, *range(2, expected.ndim)) if self._axes else tuple(range(expected.ndim - 1))
        self._error += (actual.double() - expected).square().sum().item()
        self._sum, self._square = (
            total.to(expected) + value.sum(positions)
            for total, value in ((self._sum, expected), (self._square, expected.square()))
        )
        self._count += expected.numel() // len(self._sum)

    @property
    def value(self) -> float:
        """0 where both are the same."""
        constant = self._square - self._sum.square() / self._count
        smallest = 1e-12 * self._square.sum().item()  # all are constant: then any error counts
        return (self._error / max(constant.sum().item(), smallest, 1e-300)) ** 0.5
