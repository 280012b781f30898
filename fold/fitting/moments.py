"""Normal equations of a convolution, accumulated over batches of images.

A convolution is linear in its weights: where `u` is the row of inputs that one output position sees, the outputs there
are `u W^T + b`. Least squares needs only sums over positions, `U^T U` and `U^T Y`. They are small whatever the number
of images, and they add up, so the images come in batches. Rows are made for sampled positions of one batch at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..algebra.geometry import Geometry

_BLOCK = 512  # rows of a product that is symmetric, computed at a time: what lies left of the diagonal is not computed


def unknowns(geometry: Geometry) -> int:
    """Weights and bias of one output channel."""
    return geometry.in_channels // geometry.groups * math.prod(geometry.kernel) + 1


@dataclass(frozen=True)
class Positions:
    """Some output positions of a batch: for each axis, the batch first, one index per position."""

    index: tuple[Tensor, ...]

    @classmethod
    def sampled(cls, extents: Sequence[int], count: int, seed: int) -> Positions:
        """``count`` different positions, all where there are fewer, of a batch with ``extents`` (images, then pixels).

        The same ``seed`` gives the same positions.
        """
        total = math.prod(extents)
        drawn = torch.arange(total)
        if count < total:
            drawn = torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:count].sort().values
        return cls(torch.unravel_index(drawn, tuple(extents)))

    def of(self, value: Tensor, axes: int) -> Tensor:
        """The rows `[positions, channels]` of ``value``, in float64. Without ``axes``, channels are last."""
        channels_last = value.movedim(1, -1) if axes else value
        return channels_last[self.index].double()


def extents_of(value: Tensor, axes: int) -> tuple[int, ...]:
    """Images and pixels per axis of ``value``, `[batch, channels, *spatial]`, or without ``axes`` `[..., channels]`."""
    return (value.shape[0], *value.shape[2:]) if axes else tuple(value.shape[:-1])


def rows(x: Tensor, geometry: Geometry, at: Positions) -> Tensor:
    """What each position ``at`` sees of ``x``: `[groups, positions, in / groups * taps]`, in float64.

    ``x`` is `[batch, in, *spatial]`; without spatial axes `[batch, ..., in]`.
    """
    g = geometry
    if g.axes == 0:
        return at.of(x, 0).unflatten(-1, (g.groups, -1)).transpose(0, 1)
    x = F.pad(x, [amount for lo_hi in reversed(g.padding) for amount in lo_hi])
    for axis, (span, stride, dilation) in enumerate(zip(g.span, g.stride, g.dilation, strict=True)):
        x = x.unfold(2 + axis, span, stride)[..., ::dilation]
    seen = x.movedim(1, 1 + g.axes)[at.index].double()  # [positions, in, *kernel]
    return seen.unflatten(1, (g.groups, -1)).flatten(2).transpose(0, 1)


class Moments:
    """Sums over positions of products of inputs, and of inputs with targets, in float64.

    ``gram`` is `[groups, n, n]` and ``cross`` `[groups, n, out / groups]`, with `n` the unknowns of an output channel:
    its weights and, last, its bias, whose input is 1.
    """

    def __init__(self, geometry: Geometry, device: torch.device):
        n, g = unknowns(geometry), geometry.groups
        self.geometry = geometry
        self.gram = torch.zeros(g, n, n, dtype=torch.float64, device=device)
        self.cross = torch.zeros(g, n, geometry.out_channels // g, dtype=torch.float64, device=device)

    @property
    def count(self) -> float:
        """The number of positions."""
        return self.gram[0, -1, -1].item()

    def add(self, seen: Tensor, target: Tensor) -> None:
        """Take in what some positions see, `[groups, positions, n - 1]`, and their targets, `[positions, out]`."""
        extended = F.pad(seen, (0, 1), value=1.0)
        self._add_inputs(extended)
        self._add_targets(extended, target)

    def add_targets(self, seen: Tensor, target: Tensor) -> None:
        """As `add`, of positions whose inputs have been taken in before."""
        self._add_targets(F.pad(seen, (0, 1), value=1.0), target)

    def _add_inputs(self, extended: Tensor) -> None:
        n = extended.shape[2]
        for low in range(0, n, _BLOCK):
            high = min(low + _BLOCK, n)
            product = extended[..., low:high].transpose(1, 2) @ extended[..., low:]
            self.gram[:, low:high, low:] += product
            self.gram[:, high:, low:high] += product[..., high - low :].transpose(1, 2)

    def _add_targets(self, extended: Tensor, target: Tensor) -> None:
        by_group = target.unflatten(1, (self.geometry.groups, -1)).transpose(0, 1)
        self.cross.baddbmm_(extended.transpose(1, 2), by_group)
