"""Whether a layer that pads may follow the layers before it.

It may where the zeros that it pads are what the earlier layers would have given there. With a bias in between they
never are. Where all that is wrong is the bias, since the earlier layers look at single pixels, a map with one bias per
pixel repairs it, for one size of image (`fold.regions.borders`).
"""

from __future__ import annotations

from enum import Enum

from torch import fx

from ..algebra.operations import AffineOp
from ..graph.nodes import positions
from .steps import Value


class Border(Enum):
    """What the merged layer gives at the borders, compared with the layers in a row."""

    EXACT = "the same"
    BIAS_ONLY = "the same but for the bias"
    WRONG = "another value"


def border_of(node: fx.Node, before: Value, op: AffineOp) -> Border:
    """What merging ``op``, at ``node``, with the value ``before`` gives at the borders."""
    if before.anchor is op.input:
        return Border.EXACT
    if op.geometry.transposed:  # reaches fewer pixels at the borders
        return Border.BIAS_ONLY if before.biased else Border.EXACT
    padded = [_padded(node, op, axis) for axis in range(op.geometry.axes)]
    if any(_reads(before, axis, position) for axis, outside in enumerate(padded) for position in outside):
        return Border.WRONG
    return Border.BIAS_ONLY if before.biased and any(padded) else Border.EXACT


def _padded(node: fx.Node, op: AffineOp, axis: int) -> set[int]:
    """The positions outside of its input that ``op`` reads, as zeros."""
    g = op.geometry
    (low, _), stride, span = g.padding[axis], g.stride[axis], g.span[axis]
    size, outputs = positions(op.input, g.axes)[axis], positions(node, g.axes)[axis]
    first = range(min(outputs, -(-low // stride)))  # the outputs that read in front of the value
    last = range(max(len(first), (size - span + low) // stride + 1), outputs)  # and behind it
    taps = range(0, span, g.dilation[axis])
    return {q for o in (*first, *last) for tap in taps if not 0 <= (q := stride * o + tap - low) < size}


def _reads(value: Value, axis: int, position: int) -> bool:
    """Whether ``value``, computed at a ``position`` outside of it, would read anything but zeros."""
    g = value.convolution
    start = position * g.stride[axis] - g.padding[axis][0]
    size = positions(value.base, g.axes)[axis]
    return any(0 <= start + tap < size for tap in range(0, g.span[axis], g.dilation[axis]))
