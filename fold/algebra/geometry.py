"""The shape of a convolution, and how shapes compose.

Conventions are PyTorch's: cross-correlation, zero padding. The number of spatial axes is free; none at all is a linear
layer. `fold.algebra.affine_conv` has the formulas.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

Pads = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Geometry:
    """The shape of a convolution with any number of spatial axes; without axes, of a linear layer.

    ``kernel`` counts taps; ``stride`` and ``dilation`` are in input pixels, as is ``padding``: (before, after) per
    axis, where a negative amount crops. Of a transposed convolution they are in output pixels, and ``padding`` crops
    its output; it composes with pointwise layers only.
    """

    in_channels: int
    out_channels: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Pads
    dilation: tuple[int, ...]
    groups: int
    transposed: bool = field(default=False, kw_only=True)

    @classmethod
    def pointwise(cls, in_channels: int, out_channels: int, axes: int, groups: int = 1) -> Geometry:
        """A 1x1 convolution (``axes`` spatial axes) with stride 1 and no padding."""
        ones = (1,) * axes
        return cls(in_channels, out_channels, ones, ones, ((0, 0),) * axes, ones, groups)

    @classmethod
    def identity(cls, channels: int, axes: int) -> Geometry:
        """A depthwise 1x1 convolution, which is what the identity is."""
        return cls.pointwise(channels, channels, axes, groups=channels)

    @property
    def axes(self) -> int:
        """The number of spatial axes."""
        return len(self.kernel)

    @property
    def is_pointwise(self) -> bool:
        """Whether it maps each pixel alone."""
        return self == Geometry.pointwise(self.in_channels, self.out_channels, self.axes, self.groups)

    @property
    def span(self) -> tuple[int, ...]:
        """Pixels from the first to the last tap, both included, per axis."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    @property
    def weights(self) -> int:
        """Weights of this convolution."""
        return self.out_channels * (self.in_channels // self.groups) * math.prod(self.kernel)

    @property
    def parameters(self) -> int:
        """Weights and biases of this convolution."""
        return self.weights + self.out_channels

    def macs(self, output_size: tuple[int, ...]) -> int:
        """Multiply-accumulates for one image whose output has ``output_size`` pixels per axis."""
        if self.transposed:
            output_size = self.input_size(output_size)
        return self.weights * math.prod(output_size)

    def input_size(self, output_size: tuple[int, ...]) -> tuple[int, ...]:
        """The pixels per axis from which a transposed convolution gives ``output_size``."""
        return tuple(
            (n + lo + hi - span) // s + 1
            for n, (lo, hi), span, s in zip(output_size, self.padding, self.span, self.stride, strict=True)
        )

    def then(self, after: Geometry) -> Geometry:
        """The geometry of ``after`` applied to the output of ``self``.

        Raises:
            ValueError: the channels or the number of axes do not fit.
        """
        if (self.out_channels, self.axes) != (after.in_channels, after.axes):
            raise ValueError(
                f"cannot compose {self.out_channels} channels on {self.axes} axes "
                f"with a layer for {after.in_channels} channels on {after.axes} axes"
            )
        if self.transposed or after.transposed:
            core, other = (self, after) if self.transposed else (after, self)
            if not other.is_pointwise:
                raise ValueError("a transposed convolution composes with pointwise layers only")
            groups = math.gcd(self.groups, after.groups)
            return replace(core, in_channels=self.in_channels, out_channels=after.out_channels, groups=groups)
        kernel, dilation = [], []
        for k1, d1, s1, k2, d2 in zip(
            self.kernel, self.dilation, self.stride, after.kernel, after.dilation, strict=True
        ):
            step = math.gcd(d1 * (k1 > 1), s1 * d2 * (k2 > 1)) or 1
            kernel.append((d1 * (k1 - 1) + s1 * d2 * (k2 - 1)) // step + 1)
            dilation.append(step)
        return Geometry(
            self.in_channels,
            after.out_channels,
            tuple(kernel),
            tuple(s1 * s2 for s1, s2 in zip(self.stride, after.stride, strict=True)),
            tuple(
                (lo1 + s1 * lo2, hi1 + s1 * hi2)
                for (lo1, hi1), s1, (lo2, hi2) in zip(self.padding, self.stride, after.padding, strict=True)
            ),
            tuple(dilation),
            math.gcd(self.groups, after.groups),
        )

    def plus(self, other: Geometry) -> Geometry:
        """The geometry of the sum of two convolutions of the same input, kernels aligned on their taps.

        Raises:
            ValueError: channels, axes or strides differ.
        """
        ends = (self.in_channels, self.out_channels, self.axes, self.stride)
        if self.transposed or other.transposed:
            raise ValueError("a transposed convolution does not add up with another value")
        if ends != (other.in_channels, other.out_channels, other.axes, other.stride):
            raise ValueError(f"cannot add {self} and {other}: channels, axes and strides must agree")
        kernel, padding, dilation = [], [], []
        for axis in range(self.axes):
            lo = max(self.padding[axis][0], other.padding[axis][0])
            steps, reaches, after = [], [], []
            for part in (self, other):
                offset = lo - part.padding[axis][0]
                steps += [offset, part.dilation[axis] * (part.kernel[axis] > 1)]
                reaches.append(offset + part.span[axis] - 1)
                after.append(part.padding[axis][1] - reaches[-1])
            step = math.gcd(*steps) or 1
            kernel.append(max(reaches) // step + 1)
            dilation.append(step)
            # With a stride above 1 the two may differ by pixels that no output reads: the smaller is right for both.
            padding.append((lo, min(after) + max(reaches)))
        return Geometry(
            self.in_channels,
            self.out_channels,
            tuple(kernel),
            self.stride,
            tuple(padding),
            tuple(dilation),
            math.gcd(self.groups, other.groups),
        )

    def beside(self, other: Geometry) -> Geometry:
        """The geometry of the output channels of ``other`` behind those of ``self``; raises as `plus` does."""
        total = self.out_channels + other.out_channels
        return self.among(total).plus(other.among(total))

    def among(self, channels: int) -> Geometry:
        """The geometry with the output channels being some of ``channels``."""
        return replace(self, out_channels=channels, groups=1)

    def on(self, axes: int) -> Geometry:
        """The geometry of a pointwise map on another number of axes."""
        return Geometry.pointwise(self.in_channels, self.out_channels, axes, self.groups)


def per_axis(value: int | tuple[int, ...], axes: int) -> tuple[int, ...]:
    """``value`` for each of ``axes`` axes, as PyTorch's layers take it."""
    return value if isinstance(value, tuple) else (value,) * axes
