"""The algebra: a value as one convolution of its anchor, and how such values compose.

`Geometry` is the shape of a convolution; `AffineConv` adds the weights.
Conventions are PyTorch's: cross-correlation, weight `[out, in / groups, *kernel]`, zero padding. The number of
spatial axes is free; none at all is a linear layer. Two layers in a row are, per axis (layer 1 first)

    output[o, x] = b2 + sum over m, c of W2[o, m, c] * (b1[m] + sum over i, a of W1[m, i, a] * input[i, x'])
    x' = s1 (s2 x + d2 c - p2) + d1 a - p1

which is one convolution with taps at `d1 a + s1 d2 c`, stride `s1 s2` and padding `p1 + s1 p2`. Away from the borders
that always holds; at the borders it holds when layer 2 pads nothing. Composition here is formal: `fold.regions`
decides where it is exact, and makes it so. This is the folding of Layer Folding (Ben Dror et al., BMVC 2022, arXiv
2106.09309), with strides, dilations, groups and sums.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from .geometry import Geometry

_EVERY_CHANNEL = (slice(None), slice(None))  # of a weight, in front of what is chosen of its kernel


@dataclass(frozen=True)
class AffineConv:
    """A convolution with its weights: ``weight`` is `[out, in / groups, *kernel]`, ``bias`` is `[out]`.

    Only as the end of a composition, ``bias`` may also be a map `[out, *spatial']` with one number per pixel.

    The dtype is that of its tensors, the same for all that are composed; `fold.merge.composing` composes in float64.
    """

    geometry: Geometry
    weight: Tensor
    bias: Tensor

    @classmethod
    def identity(cls, channels: int, axes: int, like: Tensor) -> AffineConv:
        """The identity as a depthwise 1x1 convolution, with the dtype and device of ``like``."""
        weight = torch.ones((channels, 1) + (1,) * axes, dtype=like.dtype, device=like.device)
        return cls(Geometry.identity(channels, axes), weight, weight.new_zeros(channels))

    def __call__(self, x: Tensor) -> Tensor:
        """Apply to ``x`` of shape `[batch, in, *spatial]`, giving `[batch, out, *spatial']`.

        Without spatial axes, the channels are last: `[batch, ..., in]` gives `[batch, ..., out]`.
        """
        g = self.geometry
        if g.axes == 0:
            weight = self.weight.unflatten(0, (g.groups, -1))
            return torch.einsum("...gi,goi->...go", x.unflatten(-1, (g.groups, -1)), weight).flatten(-2) + self.bias
        pads = [amount for lo_hi in reversed(g.padding) for amount in lo_hi]
        if g.transposed:
            transposed = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[g.axes - 1]
            value = transposed(x, transpose(self.weight, g.groups), None, g.stride, 0, 0, g.groups, g.dilation)
            value = F.pad(value, [-amount for amount in pads])
        else:
            convolution = (F.conv1d, F.conv2d, F.conv3d)[g.axes - 1]
            value = convolution(F.pad(x, pads), self.weight, None, g.stride, 0, g.dilation, g.groups)
        return value + (self.bias if self.bias.ndim > 1 else self.bias.reshape(-1, *(1,) * g.axes))

    def then(self, after: AffineConv) -> AffineConv:
        """``after`` applied to the output of ``self``, as one convolution; raises as `Geometry.then` does."""
        first, second = self.geometry, after.geometry
        geometry = first.then(second)
        merged = _compose(after.weight, second, self.weight, first, geometry)
        sums = after.weight.flatten(2).sum(2) if second.axes else after.weight
        blocks = sums.unflatten(0, (second.groups, -1))
        bias = after.bias + (blocks @ self.bias.unflatten(0, (second.groups, -1)).unsqueeze(2)).flatten()
        return AffineConv(geometry, merged, bias)

    def plus(self, other: AffineConv) -> AffineConv:
        """The sum of the two values, as one convolution of their common input; raises as `Geometry.plus` does."""
        geometry = self.geometry.plus(other.geometry)
        weight = self.weight.new_zeros(
            (geometry.out_channels, geometry.in_channels // geometry.groups, *geometry.kernel)
        )
        for part in (self, other):
            g = part.geometry
            where = tuple(
                _taps((lo - own_lo) // step, d // step, k)
                for (lo, _), (own_lo, _), step, d, k in zip(
                    geometry.padding, g.padding, geometry.dilation, g.dilation, g.kernel, strict=True
                )
            )
            weight[_EVERY_CHANNEL + where] += _regroup(part.weight, g.groups, geometry.groups)
        return AffineConv(geometry, weight, self.bias + other.bias)

    def beside(self, other: AffineConv) -> AffineConv:
        """The output channels of ``other`` behind those of ``self``, one convolution of their common input.

        Raises as `Geometry.plus` does.
        """
        before, after = self.geometry.out_channels, other.geometry.out_channels
        return self._among(0, after).plus(other._among(before, 0))

    def _among(self, before: int, after: int) -> AffineConv:
        """With as many channels that are zero in front of and behind the output channels."""
        weight = _regroup(self.weight, self.geometry.groups, 1)
        pads = (*(0, 0) * (weight.ndim - 1), before, after)
        geometry = self.geometry.among(before + len(weight) + after)
        return AffineConv(geometry, F.pad(weight, pads), F.pad(self.bias, (before, after)))

    def on(self, axes: int) -> AffineConv:
        """A pointwise map on another number of axes."""
        weight = self.weight.flatten(1).reshape(*self.weight.shape[:2], *(1,) * axes)
        return AffineConv(self.geometry.on(axes), weight, self.bias)


def transpose(weight: Tensor, groups: int) -> Tensor:
    """A weight `[out, in / groups, *kernel]` as `[in, out / groups, *kernel]`, or back: a transposed convolution's."""
    return weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)


def _regroup(weight: Tensor, groups: int, fewer: int) -> Tensor:
    """The same convolution with ``fewer`` groups (a divisor of ``groups``): zeros where groups do not meet."""
    if fewer == groups:
        return weight
    ratio = groups // fewer
    blocks = weight.unflatten(0, (fewer, ratio, -1))  # [fewer, ratio, out/groups, in/groups, *kernel]
    shape = (*blocks.shape[:3], ratio, *blocks.shape[3:])
    dense = weight.new_zeros(shape)
    for i in range(ratio):
        dense[:, i, :, i] = blocks[:, i]
    return dense.flatten(3, 4).flatten(0, 2)


def _compose(w2: Tensor, second: Geometry, w1: Tensor, first: Geometry, merged: Geometry) -> Tensor:
    """The kernel of layer 2 after layer 1: one tap of layer 2 at a time, so that no product of all taps is stored."""
    if math.prod(second.kernel) == 1:
        return _contract(w2.flatten(1), second.groups, w1, first.groups)
    weight = w1.new_zeros((merged.out_channels, merged.in_channels // merged.groups, *merged.kernel))
    for index in product(*(range(k) for k in second.kernel)):
        where = tuple(
            _taps(c * s1 * d2 // step, d1 // step, k1)
            for c, s1, d2, step, d1, k1 in zip(
                index, first.stride, second.dilation, merged.dilation, first.dilation, first.kernel, strict=True
            )
        )
        weight[_EVERY_CHANNEL + where] += _contract(w2[_EVERY_CHANNEL + index], second.groups, w1, first.groups)
    return weight


def _contract(w2: Tensor, groups2: int, w1: Tensor, groups1: int) -> Tensor:
    """Sum the middle channels out of `[out, middle / groups2]` and `[middle, in / groups1, *kernel1]`.

    Gives `[out, in / groups, *kernel1]` with the gcd of the groups, by one batched matrix product. A depthwise operand
    is never made dense: the batch runs over the finer grouping, which is possible whenever one number of groups divides
    the other.
    """
    groups = math.gcd(groups1, groups2)
    if groups not in (groups1, groups2):
        w1, groups1 = _regroup(w1, groups1, groups), groups
    fine = max(groups1, groups2)
    ratio = fine // groups2  # sub-blocks of the middle channels that one group of layer 2 spans
    # left [fine, out / groups2, middle / fine], right [fine, middle / fine, in / groups1 * taps1]
    left = w2.unflatten(1, (ratio, -1)).unflatten(0, (groups2, -1)).transpose(1, 2).flatten(0, 1)
    right = w1.flatten(1).unflatten(0, (fine, -1))
    taps = (left @ right).unflatten(2, w1.shape[1:]).unflatten(0, (groups2, ratio))
    # [groups2, ratio, o, inputs, *taps1] -> [out = (groups2, o), in = (ratio, inputs), *taps1]
    return taps.transpose(1, 2).flatten(2, 3).flatten(0, 1)


def _taps(start: int, step: int, count: int) -> slice:
    return slice(start, start + 1) if count == 1 else slice(start, start + step * (count - 1) + 1, step)
