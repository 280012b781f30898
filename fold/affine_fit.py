"""The affine map per channel that comes closest to an activation, by least squares: `scale x + shift`.

For a ReLU of normally distributed values of mean u and deviation v, the best scale is Phi(u / v), the best shift
v phi(u / v).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_WIDTH, _POINTS = 6.0, 2001  # of the normal distribution, in deviations each way
_DEAD = 1e-12  # a variance below that of the values is none


def moments(x: Tensor, y: Tensor, axis: int) -> Tensor:
    """The means of 1, x, x^2, y and x y per channel, `[5, C]`, float32 at least; ``axis`` is that of the channels."""
    others = [i for i in range(x.ndim) if i != axis % x.ndim]
    x, y = (tensor.to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in (x, y))
    values = (torch.ones_like(x), x, x * x, y, x * y)
    return torch.stack([value.mean(others) for value in values])


def moments_of_normal(mean: Tensor, deviation: Tensor, activation: nn.Module) -> Tensor:
    """`moments` of an ``activation`` of normally distributed values, by mean and deviation of each channel, `[C]`."""
    z = torch.linspace(-_WIDTH, _WIDTH, _POINTS, dtype=torch.float64, device=mean.device)[:, None]
    density = torch.exp(-z * z / 2)
    x = mean.double() + deviation.double() * z
    y = activation(x.float()).double()
    values = torch.stack([torch.ones_like(x), x, x * x, y, x * y])
    return ((values * density).sum(1) / density.sum()).to(mean.dtype)


def affine_map(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift, `[C]` each, from `moments` or a weighted sum of them: constant where the values do not vary."""
    weight, *sums = moments
    x, xx, y, xy = (total / weight for total in sums)
    variance = xx - x * x
    scale = torch.where(variance > _DEAD * (1 + x * x), (xy - x * y) / variance.clamp(min=_DEAD), 0.0)
    return scale, y - scale * x
