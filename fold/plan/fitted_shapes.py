"""The shapes of one fitted layer that are in question for a region.

A table has to have the time of each, so not all that `fold.fitting` can do are: only kernels up to the largest of the
layers that are replaced, and the kernel of the exact merge; depthwise only where a layer has groups already; and no
layer for more activations than two inverted residuals have.
"""

from __future__ import annotations

from collections.abc import Iterator

from layer_folding.errors import InputError
from layer_folding.fit_choices import DEPTHWISE, MERGED, NONE, Choice, LayerShape

from ..algebra.layers import affine_op, is_weighted
from ..algebra.operations import AffineOp
from ..fitting.moments import unknowns
from ..fitting.parts import Part, part_of
from ..fitting.validity import MOST_UNKNOWNS
from ..graph.nodes import target_of
from ..regions.finding import Region

_MOST_ACTIVATIONS = 4


def fitted_parts(region: Region, max_growth: float) -> Iterator[Part]:
    """What can be fitted in ``region``, in place of its layers and of the activations that are removed in it.

    The region may take ``max_growth`` times the multiply-accumulates then, not more.
    """
    if region.geometry.transposed or len(region.removed) > _MOST_ACTIVATIONS:
        return
    removed = tuple(target_of(node) for node in region.removed)
    for shape in _shapes(part_of(region, Choice(removed, MERGED))):
        try:
            part = part_of(region, Choice(removed, shape))
        except InputError:  # the shape needs other channels, or a skip
            continue
        if part.macs[1] <= max_growth * part.macs[0] and _is_solvable(part):
            yield part


def has_full_reach(part: Part) -> bool:
    """Whether the fitted kernel spans as much as each kernel that it replaces, and joins as many channels."""
    if part.crop is None or part.crop.geometry.groups != part.merged.groups:
        return False
    spans = [op.geometry.span for op in _replaced(part) if op.geometry.axes == part.merged.axes]  # others are pointwise
    return all(own >= max(others, default=1) for own, *others in zip(part.crop.geometry.span, *spans, strict=True))


def _shapes(whole: Part) -> Iterator[LayerShape]:
    """Odd kernels up to the first with full reach, the kernel of the exact merge, depthwise, and none."""
    kernel = whole.merged.kernel
    for size in range(1, max(kernel, default=0), 2):
        sizes = tuple(min(size, merged) for merged in kernel)
        yield sizes if len(sizes) > 1 else size
        if has_full_reach(part_of(whole.region, Choice(whole.choice.activations, sizes))):
            break
    yield MERGED
    if whole.merged.groups < whole.merged.in_channels and any(op.geometry.groups > 1 for op in _replaced(whole)):
        yield DEPTHWISE
    yield NONE


def _is_solvable(part: Part) -> bool:
    """Whether `lf.fit` takes as many unknowns."""
    return part.crop is None or unknowns(part.crop.geometry) <= MOST_UNKNOWNS


def _replaced(part: Part) -> Iterator[AffineOp]:
    """The weighted layers that are replaced."""
    for node in part.replaced:
        op = affine_op(node, part.merged.axes) if is_weighted(node) else None
        if isinstance(op, AffineOp):
            yield op
