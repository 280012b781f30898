"""How far the outputs of two networks are apart, without labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class Divergence:
    """The mean of KL(original || changed) over images, in nats, and the share of images with the same class first.

    Of outputs `[N, classes]` or `[N, classes, *spatial]`, where it is a mean over pixels, too.
    """

    def __init__(self) -> None:
        self._divergence, self._same, self._count = 0.0, 0, 0

    @torch.no_grad()
    def add(self, original: Tensor, changed: Tensor) -> None:
        """Take in the outputs for a batch of images."""
        expected, actual = original.double().log_softmax(1), changed.double().log_softmax(1)
        self._divergence += F.kl_div(actual, expected, log_target=True, reduction="sum").item()
        self._same += int((original.argmax(1) == changed.argmax(1)).sum())
        self._count += original.numel() // original.shape[1]

    @property
    def mean(self) -> float:
        """In nats, 0 or more."""
        return self._divergence / self._count

    @property
    def agreement(self) -> float:
        """From 0 to 1."""
        return self._same / self._count


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
