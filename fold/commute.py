"""Operations that may change places with a pointwise affine map, such as average pooling and flattening.

They treat every channel alike and keep constants: `pool(W x + b) = W pool(x) + b`. So a 1x1 convolution before a
global pooling can be merged with the linear layer behind it, and runs on one pixel instead of all.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import fx, nn

from fold.graph import AVERAGES, channel_axis, module_of

_ALIKE = (
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d,
)  # fmt: skip
_SMOOTH = ("nearest", "nearest-exact", "linear", "bilinear", "trilinear", "bicubic", "area")  # weights add up to 1


def axes_after(node: fx.Node, axes: int) -> int | None:
    """The spatial axes (0: channels last) of the output of ``node``, if it commutes with pointwise maps, else None.

    ``axes`` are those of its input.
    """
    if node.op not in ("call_module", "call_function", "call_method") or len(node.all_input_nodes) != 1:
        return None
    x, module = node.args[0], module_of(node)
    shape = x.meta.get("shape") if isinstance(x, fx.Node) else None
    if shape is None or node.meta.get("shape") is None:
        return None
    rank, channel = len(shape), channel_axis(x, axes)
    if axes and axes == rank - 2 and (
        isinstance(module, _ALIKE[:3]) or node.target in _ALIKE or _keeps_constants(module)
        or (node.target is F.interpolate and node.kwargs.get("mode", "nearest") in _SMOOTH)
        or (isinstance(module, nn.Upsample) and module.mode in _SMOOTH)
    ):  # fmt: skip
        return axes if len(node.meta["shape"]) == rank else None
    if node.target in (torch.mean, "mean"):
        return _after_mean(node, rank, channel)
    if node.target in (torch.permute, "permute", torch.transpose, "transpose"):
        return _after_permutation(node, rank, channel)
    if node.target in (torch.flatten, "flatten") or isinstance(module, nn.Flatten):
        return _after_flatten(node, module, shape, channel)
    return None


def _keeps_constants(module: nn.Module | None) -> bool:
    """Whether ``module`` is an average pooling that counts no zeros from beyond the border."""
    if not isinstance(module, AVERAGES) or getattr(module, "divisor_override", None):
        return False
    padding = module.padding if isinstance(module.padding, tuple) else (module.padding,)
    return not any(padding) or not module.count_include_pad


def _after_mean(node: fx.Node, rank: int, channel: int) -> int | None:
    given = dict(zip(("dim", "keepdim"), node.args[1:], strict=False)) | dict(node.kwargs)
    dims = given.pop("dim", None)
    dims = [dims] if isinstance(dims, int) else dims
    keep = given.pop("keepdim", False)
    if given or not dims:
        return None
    gone = {dim % rank for dim in dims}
    if gone & {0, channel}:
        return None
    return _axes(channel if keep else channel - sum(dim < channel for dim in gone), rank if keep else rank - len(gone))


def _after_permutation(node: fx.Node, rank: int, channel: int) -> int | None:
    order = node.args[1:]
    order = order[0] if len(order) == 1 and isinstance(order[0], (tuple, list)) else order
    if node.kwargs or not all(isinstance(i, int) for i in order):
        return None
    order = [i % rank for i in order]
    if node.target in (torch.transpose, "transpose"):
        a, b = order
        order = list(range(rank))
        order[a], order[b] = b, a
    return _axes(order.index(channel), rank) if order[0] == 0 else None


def _after_flatten(node: fx.Node, module: nn.Module | None, shape: tuple[int, ...], channel: int) -> int | None:
    given = dict(zip(("start_dim", "end_dim"), node.args[1:], strict=False)) | dict(node.kwargs)
    if module is not None:
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
