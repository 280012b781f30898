"""What each node of a graph is in the algebra: an affine operation on one value, or a reason why it is not one.

A value has its channels on axis 1, with spatial axes behind them, or on its last axis, which is how linear layers see
it; `Geometry.axes` tells which: the number of spatial axes, or 0 for channels last.
"""

from __future__ import annotations

import operator

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fold.affine import Geometry, Pads, transpose
from fold.canonical import SamePad2d
from fold.foreign import branch_dropouts
from fold.graph import describe, module_of, tensor_of
from fold.operations import (
    ADDITIONS,
    ARITHMETIC,
    AffineOp,
    arithmetic,
    average,
    diagonal,
    identity,
    pad,
    part,
    select,
    shuffled,
)  # fmt: skip

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
CONSTANT_PADS = (nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d)  # the ZeroPad classes among them
CONCATENATIONS = (torch.cat, torch.concat, torch.concatenate)


def is_weighted(node: fx.Node) -> bool:
    """Whether ``node`` is a layer that depth counts: a convolution or a linear layer."""
    return isinstance(module_of(node), (*CONVOLUTIONS, *TRANSPOSED, nn.Linear))


def is_addition(node: fx.Node) -> bool:
    """Whether ``node`` adds two tensors of one shape."""
    return (
        node.op in ("call_function", "call_method")
        and node.target in ADDITIONS
        and len(node.args) == 2
        and node.kwargs.get("alpha", 1) == 1
        and all(isinstance(x, fx.Node) and x.meta.get("shape") == node.meta.get("shape") for x in node.args)
        and not any(x.op == "get_attr" for x in node.args)
    )


def is_concatenation(node: fx.Node) -> bool:
    """Whether ``node`` concatenates tensors."""
    return node.target in CONCATENATIONS and all(isinstance(x, fx.Node) for x in node.args[0])


def concatenated_axis(node: fx.Node) -> int:
    """The axis, from the front, on which ``node`` concatenates."""
    given = dict(node.kwargs)
    axis = node.args[1] if len(node.args) > 1 else given.get("dim", given.get("axis", 0))
    return axis % len(node.meta["shape"])


def is_passthrough(node: fx.Node) -> bool:
    """Whether ``node`` returns its input unchanged in eval mode."""
    return isinstance(module_of(node), (nn.Identity, *DROPOUTS, *branch_dropouts())) or node.target == "contiguous"


def operands(node: fx.Node) -> tuple[fx.Node, ...]:
    """The values that ``node``, a sum, a concatenation, a pass-through or an affine operation, reads."""
    if is_concatenation(node):
        return tuple(node.args[0])
    if is_addition(node):
        return tuple(node.args)
    op = None if is_passthrough(node) else affine_op(node)
    if isinstance(op, AffineOp):
        return (op.input,)
    return tuple(x for x in node.args[:1] if isinstance(x, fx.Node))


def affine_op(node: fx.Node, axes: int | None = None) -> AffineOp | str:
    """``node`` as an affine operation, or the reason why it is not one (also for anything nonlinear).

    ``axes`` says how the value that ``node`` reads sees its channels, for operations that work with either.
    """
    if node.op in ("call_function", "call_method") and node.target in ARITHMETIC:
        return arithmetic(node, axes)
    module, shape = module_of(node), node.meta.get("shape")
    x = node.args[0] if node.args else None
    if not isinstance(x, fx.Node) or shape is None or x.meta.get("shape") is None or len(shape) < 2:
        return f"{describe(node)} is not an operation on one tensor"
    if isinstance(module, CONVOLUTIONS):
        return _convolution(x, module, node)
    if isinstance(module, TRANSPOSED):
        return _transposed(x, module, node)
    if isinstance(module, nn.Linear):
        return _linear(x, module, node)
    if isinstance(module, BATCH_NORMS) or node.target is F.batch_norm:
        return _batch_norm(x, node)
    if isinstance(module, CONSTANT_PADS):
        return pad(x, list(module.padding), module.value, node)
    if getattr(module, "as_convolution", False):
        return average(x, module, node)
    if isinstance(module, SamePad2d):
        return identity(x, node, padding=module.amounts(x.meta["shape"][2:]))
    if isinstance(module, nn.ChannelShuffle):
        return select(x, shuffled(shape[1], module.groups), node)
    if node.target is F.pad:
        amounts, mode, value = _arguments(node, ("pad", "mode", "value"), (None, "constant", None))
        return pad(x, list(amounts), value, node) if mode == "constant" else f"{describe(node)} pads by {mode}"
    if node.target is operator.getitem:
        return part(x, node)
    return f"{describe(node)} is not linear"


def conv_padding(conv: nn.Module) -> Pads:
    """(before, after) per axis of a convolution module, `"same"` and `"valid"` resolved."""
    if isinstance(conv.padding, str):
        totals = [d * (k - 1) * (conv.padding == "same") for k, d in zip(conv.kernel_size, conv.dilation, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    return tuple((p, p) for p in conv.padding)


def _convolution(x: fx.Node, conv: nn.Module, node: fx.Node) -> AffineOp | str:
    if len(node.meta["shape"]) != conv.weight.ndim:
        return f"{describe(node)} runs on a tensor without a batch axis"
    if conv.padding_mode != "zeros":
        return f"{describe(node)} pads by {conv.padding_mode}, which no merged kernel reproduces"
    if node.meta.get("shared"):
        return f"{describe(node)} shares its weights with another call"
    geometry = Geometry(
        conv.in_channels,
        conv.out_channels,
        tuple(conv.kernel_size),
        tuple(conv.stride),
        conv_padding(conv),
        tuple(conv.dilation),
        conv.groups,
    )
    return AffineOp(x, geometry, lambda: _weight_and_bias(conv), weighted=True, biased=conv.bias is not None)


def _transposed(x: fx.Node, conv: nn.Module, node: fx.Node) -> AffineOp | str:
    if len(node.meta["shape"]) != conv.weight.ndim:
        return f"{describe(node)} runs on a tensor without a batch axis"
    if node.meta.get("shared"):
        return f"{describe(node)} shares its weights with another call"
    padding = tuple((p, p - more) for p, more in zip(conv.padding, conv.output_padding, strict=True))
    geometry = Geometry(
        conv.in_channels,
        conv.out_channels,
        tuple(conv.kernel_size),
        tuple(conv.stride),
        padding,
        tuple(conv.dilation),
        conv.groups,
        transposed=True,
    )

    def weights() -> tuple[Tensor, Tensor]:
        weight = transpose(conv.weight.detach().double(), conv.groups)
        bias = weight.new_zeros(len(weight)) if conv.bias is None else conv.bias.detach().double()
        return weight, bias

    return AffineOp(x, geometry, weights, weighted=True, biased=conv.bias is not None)


def _linear(x: fx.Node, linear: nn.Linear, node: fx.Node) -> AffineOp | str:
    if node.meta.get("shared"):
        return f"{describe(node)} shares its weights with another call"
    geometry = Geometry.pointwise(linear.in_features, linear.out_features, axes=0)
    return AffineOp(x, geometry, lambda: _weight_and_bias(linear), weighted=True, biased=linear.bias is not None)


def _weight_and_bias(layer: nn.Module) -> tuple[Tensor, Tensor]:
    weight = layer.weight.detach().double()
    bias = weight.new_zeros(weight.shape[0]) if layer.bias is None else layer.bias.detach().double()
    return weight, bias


def _batch_norm(x: fx.Node, node: fx.Node) -> AffineOp | str:
    norm = module_of(node)
    if norm is not None:
        mean, var, weight, bias, eps = norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps
    else:
        names = ("running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
        *tensors, training, _, eps = _arguments(node, names, (None, None, None, None, False, 0.1, 1e-5))
        mean, var, weight, bias = map(tensor_of, tensors)
        if training or any(isinstance(t, fx.Node) and tensor_of(t) is None for t in tensors):
            return f"{describe(node)} is not a fixed affine map"
    if mean is None:
        return f"{describe(node)} has no running statistics, so it is not a fixed affine map"
    if node.meta.get("shared"):
        return f"{describe(node)} shares its weights with another call"
    axes = len(node.meta["shape"]) - 2

    def weights() -> tuple[Tensor, Tensor]:
        scale = (var.double() + eps).rsqrt()
        if weight is not None:
            scale = scale * weight.detach().double()
        shift = -mean.double() * scale
        if bias is not None:
            shift = shift + bias.detach().double()
        return diagonal(scale, axes), shift

    return AffineOp(x, Geometry.identity(mean.numel(), axes), weights, biased=True)


def _arguments(node: fx.Node, names: tuple[str, ...], defaults: tuple[object, ...]) -> list[object]:
    given = dict(zip(names, node.args[1:], strict=False)) | dict(node.kwargs)
    return [given.get(name, default) for name, default in zip(names, defaults, strict=True)]
