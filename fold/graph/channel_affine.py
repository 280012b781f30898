"""A scale and a shift per channel: what stands in place of an activation that was removed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .nodes import Opaque, mark


class ChannelAffine(Opaque):
    """``scale x + shift``, one number of each per channel, `[C]`, that layers merge with exactly.

    ``axis`` is that of the channels, 1 or -1.
    """

    def __init__(self, scale: Tensor, shift: Tensor, axis: int = 1):
        super().__init__()
        self.scale, self.shift, self.axis = nn.Parameter(scale), nn.Parameter(shift), axis
        mark(self, "removed")

    def forward(self, x: Tensor) -> Tensor:
        return scaled_and_shifted(x, self.scale, self.shift, self.axis)

    def extra_repr(self) -> str:
        return f"{len(self.scale)}, axis={self.axis}"


def scaled_and_shifted(x: Tensor, scale: Tensor, shift: Tensor, axis: int) -> Tensor:
    """``scale x + shift`` along ``axis``, 1 or -1, of ``x``, in the dtype of ``x``."""
    shape = (-1, *(1,) * (x.ndim - 2)) if axis == 1 else (-1,)
    scale, shift = (values.to(x.dtype).view(shape) for values in (scale, shift))
    return torch.addcmul(shift, x, scale)
