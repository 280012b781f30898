"""Least squares from normal equations, pulled towards a prior."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..algebra.affine_conv import AffineConv
from .moments import Moments

_TINY = 1e-300  # a spread that stands for 0, where all inputs are 0
_ROUNDING = 1e-10  # of the mean square of the inputs: where they are constant, their spread is rounding, of either sign


@dataclass(frozen=True)
class Centred:
    """Moments about the means: ``spread`` `[groups, n, n]`, ``cross`` `[groups, n, out / groups]`, and the means.

    ``inputs`` is `[groups, n, 1]`, ``outputs`` `[groups, 1, out / groups]`; `n` are the weights of an output channel.
    """

    spread: Tensor
    cross: Tensor
    inputs: Tensor
    outputs: Tensor


def centred(moments: Moments) -> Centred:
    """``moments`` without the input of the bias."""
    inputs, outputs = moments.gram[:, :-1, -1:] / moments.count, moments.cross[:, -1:] / moments.count
    spread = moments.gram[:, :-1, :-1] - moments.count * inputs @ inputs.transpose(1, 2)
    return Centred(spread, moments.cross[:, :-1] - moments.count * inputs @ outputs, inputs, outputs)


def solve(moments: Moments, prior: AffineConv, ridge: float) -> AffineConv:
    """The convolution that minimises `sum |u W^T + b - y|^2 + r |W - W_prior|^2`, in float64.

    `r` is ``ridge`` times the mean of the diagonal of the centred `U^T U`, so ``ridge`` has no unit; it is never below
    what rounding leaves of constant inputs. It carries inputs that are constant, or copies of each other: along these
    the weights stay the prior's. The bias is free.

    Args:
        moments: of the layer's geometry.
        prior: of the same geometry, in float64.
        ridge: above 0.
    """
    sums = centred(moments)
    start = _by_group(prior.weight, moments).transpose(1, 2)  # [groups, n, out / groups]
    residual = sums.cross - sums.spread @ start
    pulled = sums.spread.clone()
    strength = ridge * sums.spread.diagonal(dim1=1, dim2=2).mean(1, keepdim=True)
    smallest = _ROUNDING * moments.gram.diagonal(dim1=1, dim2=2)[:, :-1].mean(1, keepdim=True)
    pulled.diagonal(dim1=1, dim2=2).add_(strength.maximum(smallest).clamp_min(_TINY))
    weight = start + torch.cholesky_solve(residual, torch.linalg.cholesky(pulled))
    bias = sums.outputs - sums.inputs.transpose(1, 2) @ weight
    return AffineConv(moments.geometry, weight.transpose(1, 2).reshape(prior.weight.shape), bias.flatten())


def output_statistics(moments: Moments, layer: AffineConv) -> tuple[Tensor, Tensor]:
    """Mean and variance, `[out]` each, of what ``layer`` gives without its bias, over the positions of ``moments``."""
    sums, weight = centred(moments), _by_group(layer.weight, moments)
    mean = weight @ sums.inputs
    variance = ((weight @ sums.spread) * weight).sum(2) / moments.count
    return mean.flatten(), variance.flatten().clamp_min(0)


def _by_group(weight: Tensor, moments: Moments) -> Tensor:
    return weight.flatten(1).unflatten(0, (moments.geometry.groups, -1))  # [groups, out / groups, n]
