"""The shapes that a fitted layer may have, and how a merged kernel is cropped to one of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from layer_folding.errors import InputError
from layer_folding.fit_choices import DEPTHWISE, MERGED, LayerShape

from ..algebra.affine_conv import AffineConv
from ..algebra.geometry import Geometry


@dataclass(frozen=True)
class Crop:
    """The part of a merged kernel that a shape keeps: per axis, ``geometry.kernel`` taps from tap ``first`` on."""

    geometry: Geometry
    first: tuple[int, ...]

    def of(self, merged: AffineConv) -> AffineConv:
        """The weights of ``merged`` that stay; where the shape is depthwise, those of each channel on itself."""
        weight = merged.weight
        for axis, (first, size) in enumerate(zip(self.first, self.geometry.kernel, strict=True), start=2):
            weight = weight.narrow(axis, first, size)
        if self.geometry.groups != merged.geometry.groups:
            channels, width = weight.shape[:2]
            weight = weight[range(channels), [channel % width for channel in range(channels)]].unsqueeze(1)
        return AffineConv(self.geometry, weight, merged.bias)


def crop(merged: Geometry, shape: LayerShape, choice: str) -> Crop:
    """The part of a kernel of geometry ``merged`` that ``shape`` keeps, around the same tap.

    What goes from the kernel goes from the padding, so the output has as many pixels as before. Stride, dilation and
    groups are those of ``merged``, except that "depthwise" has one group a channel.

    Args:
        merged: of the exact merge.
        shape: a number of taps for all axes, one number for each axis, "merged" (all taps), or "depthwise" (all taps).
        choice: how an error names what was chosen.

    Raises:
        InputError: ``shape`` is none of these, larger than the merged kernel, off its centre, or needs as many
            outputs as inputs and has not; or the merge would be a transposed convolution.
    """
    if merged.transposed:
        raise InputError(f"{choice}: a transposed convolution is not fitted; leave its activations in place")
    if shape == DEPTHWISE:
        if merged.in_channels != merged.out_channels:
            raise InputError(
                f"{choice}: a depthwise layer has as many outputs as inputs, and here {merged.in_channels} channels "
                f"become {merged.out_channels}; give a kernel size"
            )
        return Crop(replace(merged, groups=merged.in_channels), (0,) * merged.axes)
    kernel = _kernel(merged, shape, choice)
    first = tuple((whole - part) // 2 for whole, part in zip(merged.kernel, kernel, strict=True))
    behind = tuple(whole - part - a for whole, part, a in zip(merged.kernel, kernel, first, strict=True))
    steps = zip(merged.padding, first, behind, merged.dilation, strict=True)
    padding = tuple((lo - a * d, hi - b * d) for (lo, hi), a, b, d in steps)
    dilation = tuple(d if k > 1 else 1 for d, k in zip(merged.dilation, kernel, strict=True))
    return Crop(replace(merged, kernel=kernel, padding=padding, dilation=dilation), first)


def _kernel(merged: Geometry, shape: LayerShape, choice: str) -> tuple[int, ...]:
    """The taps per axis that ``shape`` asks for; none for a linear layer, whose size is 1."""
    if shape == MERGED:
        return merged.kernel
    largest = merged.kernel or (1,)
    sizes = (shape,) * len(largest) if type(shape) is int else shape
    if not isinstance(sizes, tuple) or not sizes or any(type(k) is not int or k < 1 for k in sizes):
        raise InputError(
            f"{choice}: shape {shape!r} is unknown; give a kernel size such as 3 or (3, 1), 'merged', 'depthwise', or "
            "'none'"
        )
    if len(sizes) != len(largest) or any(k > whole for k, whole in zip(sizes, largest, strict=True)):
        raise InputError(
            f"{choice}: shape {shape!r} does not fit into the merged kernel, which is {size_text(largest)}; give a "
            "smaller one"
        )
    if any((whole - k) % 2 and k % 2 == 0 for k, whole in zip(sizes, largest, strict=True)):
        raise InputError(f"{choice}: shape {shape!r} has no centre in a kernel of {size_text(largest)}; give odd sizes")
    return sizes if merged.axes else ()


def size_text(kernel: tuple[int, ...]) -> str:
    """How reports write a kernel: `3x3`; `1` for a linear layer."""
    return "x".join(map(str, kernel)) or "1"
