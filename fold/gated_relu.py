"""A gated ReLU with an affine map per channel, in few passes over memory: `benchmarks.gates` has times."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_TINY = 1e-6  # in place of a slope of 0, by which nothing can be divided


def gated_relu(x: Tensor, alpha: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """``alpha (scale x + shift) + (1 - alpha) relu(x)`` for ``x`` `[N, C, ...]`; ``scale`` and ``shift`` are `[C]`.

    Gradients reach ``x`` and ``alpha``; ``scale`` and ``shift`` are taken for constants, and ``scale`` is 0 or more.
    """
    if x.is_cuda:
        return _in_two_kernels(x, alpha, scale, shift, in_place=False)
    return _GatedReLU.apply(x, alpha, scale, shift)


def _in_two_kernels(x: Tensor, alpha: Tensor, scale: Tensor, shift: Tensor, *, in_place: bool) -> Tensor:
    """The slope for positive numbers times PReLU, whose own slope there is 1; plus the shift.

    Without a tensor for PReLU where that is ``in_place``, through which no gradient flows.
    """
    positive = (1 - alpha + alpha * scale).clamp(min=_TINY)
    channels = (-1, *(1,) * (x.ndim - 2))
    y = F.prelu(x, alpha * scale / positive)
    return torch.addcmul((alpha * shift).view(channels), y, positive.view(channels), out=y if in_place else None)


class _GatedReLU(torch.autograd.Function):
    """On a CPU, where the backward pass of PReLU is slow."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        ctx.alpha = alpha.item()
        ctx.save_for_backward(x, scale, shift)
        return _in_two_kernels(x, alpha, scale, shift, in_place=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        x, scale, shift = ctx.saved_tensors
        channels = (-1, *(1,) * (x.ndim - 2))
        back = torch.ops.aten.threshold_backward(gradient, x, 0)  # where x is positive
        towards = None
        if ctx.needs_input_grad[1]:
            # a BatchNorm that changes nothing has these sums over all but the channels as gradients, in one pass
            zeros, ones = torch.zeros_like(scale), torch.ones_like(scale)
            norm = (x, None, zeros, ones, None, None, False, 0.0, [False, True, True])
            _, of_scale, of_shift = torch.ops.aten.native_batch_norm_backward(gradient, *norm)
            stored = range(x.ndim) if x.is_contiguous() else (0, *range(2, x.ndim), 1)  # flattening then need not copy
            of_relu = torch.dot(*(tensor.permute(*stored).reshape(-1) for tensor in (back, x)))
            towards = torch.dot(scale, of_scale) + torch.dot(shift, of_shift) - of_relu
        back = back.mul_(1 - ctx.alpha).addcmul_(gradient, (ctx.alpha * scale).view(channels))
        return back, towards, None, None
