"""Operations that may change places with a pointwise affine map, such as average pooling and flattening.

They treat every channel alike and keep constants: `pool(W x + b) = W pool(x) + b`. So a 1x1 convolution before a
global pooling can be merged with the linear layer behind it, and runs on one pixel instead of all.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import fx, nn

from ..graph.nodes import (
    AVERAGES,
    AveragePool,
    Shape,
    calls_function,
    channel_axis,
    first_input,
    known_shape,
    module_of,
    options_of,
    shape_of,
)
from .geometry import per_axis

_ALIKE = (
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d,
)  # fmt: skip
_SMOOTH = ("nearest", "nearest-exact", "linear", "bilinear", "trilinear", "bicubic", "area")  # weights add up to 1


def axes_after(node: fx.Node, axes: int) -> int | None:
    """The spatial axes (0: channels last) of the output of ``node``, if it commutes with pointwise maps, else None.

    ``axes`` are those of its input.
    """
    x = first_input(node)
    if x is None or len(node.all_input_nodes) != 1 or known_shape(x) is None or known_shape(node) is None:
        return None
    shape, channel = shape_of(x), channel_axis(x, axes)
    if axes and axes == len(shape) - 2 and _is_smooth(node):
        return axes if len(shape_of(node)) == len(shape) else None
    if calls_function(node, torch.mean, "mean"):
        return _after_mean(node, len(shape), channel)
    if calls_function(node, torch.permute, "permute", torch.transpose, "transpose"):
        return _after_permutation(node, len(shape), channel)
    if calls_function(node, torch.flatten, "flatten") or isinstance(module_of(node), nn.Flatten):
        return _after_flatten(node, shape, channel)
    return None


def _is_smooth(node: fx.Node) -> bool:
    """Whether each pixel of the output of ``node`` is a mean of pixels of its input, with weights that add up to 1."""
    module = module_of(node)
    if isinstance(module, AVERAGES):
        return _keeps_constants(module)
    if isinstance(module, nn.Upsample):
        return module.mode in _SMOOTH
    if node.target is F.interpolate:
        return node.kwargs.get("mode", "nearest") in _SMOOTH
    return isinstance(module, _ALIKE[:3]) or node.target in _ALIKE


def _keeps_constants(pool: AveragePool) -> bool:
    """Whether an average pooling counts no zeros from beyond the border."""
    if getattr(pool, "divisor_override", None):
        return False
    return not any(per_axis(pool.padding, 1)) or not pool.count_include_pad


def _after_mean(node: fx.Node, rank: int, channel: int) -> int | None:
    given = options_of(node, "dim", "keepdim")
    keep = given.pop("keepdim", False)
    dims = given.pop("dim", None)
    dims = [dims] if isinstance(dims, int) else dims
    if given or not dims:
        return None
    averaged = {dim % rank for dim in dims}
    if averaged & {0, channel}:
        return None
    if keep:
        return _axes(channel, rank)
    return _axes(channel - sum(dim < channel for dim in averaged), rank - len(averaged))


def _after_permutation(node: fx.Node, rank: int, channel: int) -> int | None:
    given = node.args[1] if len(node.args) == 2 and isinstance(node.args[1], (tuple, list)) else node.args[1:]
    order = [i % rank for i in given if isinstance(i, int)]
    if node.kwargs or len(order) != len(given):
        return None
    if calls_function(node, torch.transpose, "transpose"):
        a, b = order
        order = list(range(rank))
        order[a], order[b] = b, a
    return _axes(order.index(channel), rank) if order[0] == 0 else None


def _after_flatten(node: fx.Node, shape: Shape, channel: int) -> int | None:
    module, given = module_of(node), options_of(node, "start_dim", "end_dim")
    if isinstance(module, nn.Flatten):
        given = {"start_dim": module.start_dim, "end_dim": module.end_dim}
    start, end = given.get("start_dim", 0) % len(shape), given.get("end_dim", -1) % len(shape)
    if start == 0:
        return None
    rank = len(shape) - (end - start)
    if start <= channel <= end:
        others = [shape[i] for i in range(start, end + 1) if i != channel]
        return _axes(start, rank) if all(extent == 1 for extent in others) else None
    return _axes(channel if channel < start else channel - (end - start), rank)


def _axes(channel: int, rank: int) -> int | None:
    """How a value of ``rank`` axes with its channels on axis ``channel`` sees them."""
    if channel == rank - 1:
        return 0
    return rank - 2 if channel == 1 else None
