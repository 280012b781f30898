"""The per-channel affine map that comes closest to an activation, from what it does to calibration images."""

from __future__ import annotations

import torch
from torch import Tensor

from ..algebra.affine_conv import AffineConv
from ..algebra.geometry import Geometry
from ..algebra.operations import diagonal

_ROUNDING = 1e-12  # a variance that is less than this part of the mean square is none


class ActivationMoments:
    """Sums over the positions of an activation's input `u` and output `a`, per channel, in float64.

    ``axes`` is the number of spatial axes behind the channels; without any, channels are last.
    """

    def __init__(self, axes: int):
        self.axes = axes
        self._count, self._sums = 0, torch.zeros(())

    def add(self, u: Tensor, a: Tensor) -> None:
        """Take in a batch: `[batch, channels, *spatial]`, or `[..., channels]`."""
        u, a = u.double(), a.double()
        positions = (0, *range(2, u.ndim)) if self.axes else tuple(range(u.ndim - 1))
        self._sums = self._sums.to(u) + torch.stack([x.sum(positions) for x in (u, a, u * u, u * a)])
        self._count += u.numel() // self._sums.shape[1]

    def best_map(self) -> AffineConv:
        """``s u + t`` with the least squared error; where the input is constant, the output's mean."""
        u, a, uu, ua = self._sums / self._count
        variance = uu - u * u
        varies = variance > _ROUNDING * uu
        s = torch.where(varies, (ua - u * a) / variance.where(varies, 1.0), 0.0)
        return AffineConv(Geometry.identity(len(s), self.axes), diagonal(s, self.axes), a - s * u)
