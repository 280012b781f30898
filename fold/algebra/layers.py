"""What each node of a graph is in the algebra: an affine operation on one value, or a refusal.

A value has its channels on axis 1, with spatial axes behind them, or on its last axis, which is how linear layers see
it; `Geometry.axes` tells which: the number of spatial axes, or 0 for channels last.
"""

from __future__ import annotations

import operator

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ..graph.canonical import SamePad2d
from ..graph.channel_affine import ChannelAffine
from ..graph.foreign import branch_dropouts
from ..graph.nodes import (
    AVERAGES,
    calls_function,
    describe,
    first_input,
    is_marked,
    is_shared,
    known_shape,
    module_of,
    options_of,
    shape_of,
    tensor_of,
)
from .affine_conv import transpose
from .arithmetic import ADDITIONS, arithmetic, is_arithmetic
from .geometry import Geometry, Pads
from .operations import AffineOp, average, channel_affine, diagonal, identity, not_linear, pad, part, select, shuffled
from .refusals import Refusal

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
Transposed = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
Layer = Convolution | Transposed | nn.Linear

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCH_NORMS = (nn.modules.batchnorm._BatchNorm,)  # also over several devices: in eval mode they are the same
DROPOUTS = (nn.modules.dropout._DropoutNd,)
CONSTANT_PADS = (nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d)  # the ZeroPad classes among them
CONCATENATIONS = (torch.cat, torch.concat, torch.concatenate)


def is_weighted(node: fx.Node) -> bool:
    """Whether ``node`` is a layer that depth counts: a convolution or a linear layer."""
    return isinstance(module_of(node), (*CONVOLUTIONS, *TRANSPOSED, nn.Linear))


def layer_of(node: fx.Node) -> Layer:
    """The layer that a weighted node calls."""
    module = module_of(node)
    assert isinstance(module, (*CONVOLUTIONS, *TRANSPOSED, nn.Linear))
    return module


def is_addition(node: fx.Node) -> bool:
    """Whether ``node`` adds two tensors of one shape."""
    return (
        calls_function(node, *ADDITIONS)
        and len(node.args) == 2
        and options_of(node).get("alpha", 1) == 1
        and all(
            isinstance(x, fx.Node) and x.op != "get_attr" and known_shape(x) == known_shape(node) for x in node.args
        )
    )


def is_concatenation(node: fx.Node) -> bool:
    """Whether ``node`` concatenates tensors."""
    computed = any(isinstance(axis, fx.Node) for axis in options_of(node, "dim").values())
    return node.target in CONCATENATIONS and not computed and len(_concatenated(node)) > 0


def _concatenated(node: fx.Node) -> tuple[fx.Node, ...]:
    """What ``node`` concatenates; empty where not all of it is values of the graph."""
    parts = node.args[0] if node.args else node.kwargs.get("tensors")
    nodes = tuple(x for x in parts if isinstance(x, fx.Node)) if isinstance(parts, (list, tuple)) else ()
    return nodes if isinstance(parts, (list, tuple)) and len(nodes) == len(parts) else ()


def concatenated_axis(node: fx.Node) -> int:
    """The axis, from the front, on which ``node`` concatenates."""
    given = options_of(node, "dim")
    axis: int = given.get("dim", given.get("axis", 0))
    return axis % len(shape_of(node))


def is_passthrough(node: fx.Node) -> bool:
    """Whether ``node`` returns its input unchanged in eval mode."""
    return isinstance(module_of(node), (nn.Identity, *DROPOUTS, *branch_dropouts())) or node.target == "contiguous"


def operands(node: fx.Node) -> tuple[fx.Node, ...]:
    """The values that ``node``, a sum, a concatenation, a pass-through or an affine operation, reads."""
    if is_concatenation(node):
        return _concatenated(node)
    if is_addition(node):
        return tuple(x for x in node.args if isinstance(x, fx.Node))
    op = None if is_passthrough(node) else affine_op(node)
    if isinstance(op, AffineOp):
        return (op.input,)
    x = first_input(node)
    return () if x is None else (x,)


def affine_op(node: fx.Node, axes: int | None = None) -> AffineOp | Refusal:
    """``node`` as an affine operation, or the reason why it is not one (also for anything nonlinear).

    ``axes`` says how the value that ``node`` reads sees its channels, for operations that work with either.
    """
    if is_arithmetic(node):
        return arithmetic(node, axes)
    x = first_input(node)
    if x is None or known_shape(x) is None or len(known_shape(node) or ()) < 2:
        return Refusal("not-linear", f"{describe(node)} is not an operation on one tensor")
    return _of_function(x, node) if module_of(node) is None else _of_module(x, node)


def _of_module(x: fx.Node, node: fx.Node) -> AffineOp | Refusal:
    module = module_of(node)
    if isinstance(module, (*CONVOLUTIONS, *TRANSPOSED, nn.Linear, *BATCH_NORMS)):
        kind = _layer_of_torch(module)
        if _computes_otherwise(module, kind):
            sentence = f"{describe(node)} computes something else than the {kind.__name__} that it inherits from"
            return Refusal("not-linear", sentence)
        if node.all_input_nodes != [x] or len(node.args) + len(node.kwargs) > 1:
            return Refusal("not-linear", f"{describe(node)} is called with more than its input, such as an output size")
        if is_shared(node):
            return Refusal("shared-weights", f"{describe(node)} shares its weights with another call")
    if isinstance(module, CONVOLUTIONS):
        return _convolution(x, module, node)
    if isinstance(module, TRANSPOSED):
        return _transposed(x, module, node)
    if isinstance(module, nn.Linear):
        return _linear(x, module)
    if isinstance(module, BATCH_NORMS):
        return _batch_norm(x, node, module.running_mean, module.running_var, module.weight, module.bias, module.eps)
    if isinstance(module, ChannelAffine):
        return channel_affine(x, module)
    if isinstance(module, CONSTANT_PADS):
        return pad(x, list(module.padding), module.value, node)
    if isinstance(module, AVERAGES) and is_marked(module, "as_convolution"):
        return average(x, module, node)
    if isinstance(module, SamePad2d):
        return identity(x, node, padding=module.amounts(shape_of(x)[2:]))
    if isinstance(module, nn.ChannelShuffle):
        return select(x, shuffled(shape_of(x)[1], module.groups), node)
    return not_linear(node)


def _layer_of_torch(module: nn.Module) -> type[nn.Module]:
    """The class of ``torch.nn`` that ``module`` is or inherits from."""
    return next(kind for kind in type(module).__mro__ if kind.__module__.startswith("torch.nn.modules."))


def _computes_otherwise(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a subclass of ``kind`` has its own way to compute, as layers for quantisation-aware training do."""
    return any(
        getattr(type(module), method, None) is not getattr(kind, method, None)
        for method in ("forward", "_conv_forward")
    )


def _of_function(x: fx.Node, node: fx.Node) -> AffineOp | Refusal:
    if node.target is F.batch_norm:
        return _functional_batch_norm(x, node)
    if node.target is F.pad:
        options = options_of(node, "pad", "mode", "value")
        mode = options.get("mode", "constant")
        if mode != "constant":
            return Refusal("border", f"{describe(node)} pads by {mode}")
        amounts = list(options["pad"]) if isinstance(options["pad"], (list, tuple)) else [options["pad"]]
        if not all(isinstance(amount, int) for amount in amounts):
            return Refusal("not-linear", f"{describe(node)} pads by amounts that the code computes")
        return pad(x, amounts, options.get("value"), node)
    if node.target is operator.getitem:
        return part(x, node)
    return not_linear(node)


def conv_padding(conv: Convolution) -> Pads:
    """(before, after) per axis of a convolution module, `"same"` and `"valid"` resolved."""
    if isinstance(conv.padding, str):
        totals = [d * (k - 1) * (conv.padding == "same") for k, d in zip(conv.kernel_size, conv.dilation, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    return tuple((p, p) for p in conv.padding)


def _convolution(x: fx.Node, conv: Convolution, node: fx.Node) -> AffineOp | Refusal:
    if len(shape_of(node)) != conv.weight.ndim:
        return Refusal("not-linear", f"{describe(node)} runs on a tensor without a batch axis")
    if conv.padding_mode != "zeros":
        return Refusal("border", f"{describe(node)} pads by {conv.padding_mode}, which no merged kernel reproduces")
    geometry = Geometry(
        conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv_padding(conv), conv.dilation,
        conv.groups,
    )  # fmt: skip
    return AffineOp(x, geometry, lambda: _weight_and_bias(conv), weighted=True, biased=conv.bias is not None)


def _transposed(x: fx.Node, conv: Transposed, node: fx.Node) -> AffineOp | Refusal:
    if len(shape_of(node)) != conv.weight.ndim:
        return Refusal("not-linear", f"{describe(node)} runs on a tensor without a batch axis")
    assert not isinstance(conv.padding, str)
    padding = tuple((p, p - more) for p, more in zip(conv.padding, conv.output_padding, strict=True))
    geometry = Geometry(
        conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, padding, conv.dilation, conv.groups,
        transposed=True,
    )  # fmt: skip

    def weights() -> tuple[Tensor, Tensor]:
        weight = transpose(conv.weight.detach().double(), conv.groups)
        bias = weight.new_zeros(len(weight)) if conv.bias is None else conv.bias.detach().double()
        return weight, bias

    return AffineOp(x, geometry, weights, weighted=True, biased=conv.bias is not None)


def _linear(x: fx.Node, linear: nn.Linear) -> AffineOp:
    geometry = Geometry.pointwise(linear.in_features, linear.out_features, axes=0)
    return AffineOp(x, geometry, lambda: _weight_and_bias(linear), weighted=True, biased=linear.bias is not None)


def _weight_and_bias(layer: Convolution | nn.Linear) -> tuple[Tensor, Tensor]:
    weight = layer.weight.detach().double()
    bias = weight.new_zeros(weight.shape[0]) if layer.bias is None else layer.bias.detach().double()
    return weight, bias


def _functional_batch_norm(x: fx.Node, node: fx.Node) -> AffineOp | Refusal:
    options = options_of(node, "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
    given = [options.get(name) for name in ("running_mean", "running_var", "weight", "bias")]
    mean, var, weight, bias = map(tensor_of, given)
    if options.get("training") or any(isinstance(t, fx.Node) and tensor_of(t) is None for t in given):
        return Refusal("not-linear", f"{describe(node)} is not a fixed affine map")
    if any(isinstance(t, fx.Node) and is_shared(t) for t in given):
        return Refusal("shared-weights", f"{describe(node)} shares its weights with another call")
    return _batch_norm(x, node, mean, var, weight, bias, options.get("eps", 1e-5))


def _batch_norm(
    x: fx.Node,
    node: fx.Node,
    mean: Tensor | None,
    var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> AffineOp | Refusal:
    """`(x - mean) / sqrt(var + eps) * weight + bias`, per channel."""
    if mean is None or var is None:
        return Refusal("not-linear", f"{describe(node)} has no running statistics, so it is not a fixed affine map")
    axes = len(shape_of(node)) - 2

    def weights() -> tuple[Tensor, Tensor]:
        scale = (var.double() + eps).rsqrt()
        if weight is not None:
            scale = scale * weight.detach().double()
        shift = -mean.double() * scale
        if bias is not None:
            shift = shift + bias.detach().double()
        return diagonal(scale, axes), shift

    return AffineOp(x, Geometry.identity(mean.numel(), axes), weights, biased=True)
