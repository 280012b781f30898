"""What each node of a graph is in the algebra: an affine operation on one value, or a reason why it is not one.

A value has its channels on axis 1, with spatial axes behind them, or on its last axis, which is how linear layers see
it; `Geometry.axes` tells which: the number of spatial axes, or 0 for channels last.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fold.affine import AffineConv, Geometry, Pads, transpose
from fold.canonical import SamePad2d
from fold.foreign import branch_dropouts
from fold.graph import module_of, tensor_of

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
CONSTANT_PADS = (nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d)  # the ZeroPad classes among them
ADDITIONS = (operator.add, torch.add, "add")
CONCATENATIONS = (torch.cat, torch.concat, torch.concatenate)

_ARITHMETIC: dict[object, str] = {
    **dict.fromkeys(ADDITIONS, "+"),
    **dict.fromkeys((operator.sub, torch.sub, torch.subtract, "sub"), "-"),
    **dict.fromkeys((operator.mul, torch.mul, torch.multiply, "mul"), "*"),
    **dict.fromkeys((operator.truediv, torch.div, torch.divide, torch.true_divide, "div"), "/"),
    **dict.fromkeys((operator.neg, torch.neg, torch.negative, "neg"), "negative"),
}


@dataclass(frozen=True)
class AffineOp:
    """An affine operation on the value ``input``.

    ``weighted``: a convolution or linear layer, what depth counts. ``biased``: may add a constant, so that a zero
    border does not stay zero. ``weights`` computes `(weight, bias)` in float64, only when it is asked.
    """

    input: fx.Node
    geometry: Geometry
    weights: Callable[[], tuple[Tensor, Tensor]]
    weighted: bool = False
    biased: bool = False

    def affine(self) -> AffineConv:
        return AffineConv(self.geometry, *self.weights())


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
    if node.op in ("call_function", "call_method") and node.target in _ARITHMETIC:
        return _arithmetic(node, axes)
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
        return _pad(x, list(module.padding), module.value, node)
    if getattr(module, "as_convolution", False):
        return _average(x, module, node)
    if isinstance(module, SamePad2d):
        return _identity(x, node, padding=module.amounts(x.meta["shape"][2:]))
    if isinstance(module, nn.ChannelShuffle):
        return _select(x, range_of_shuffle(shape[1], module.groups), node)
    if node.target is F.pad:
        amounts, mode, value = _arguments(node, ("pad", "mode", "value"), (None, "constant", None))
        return _pad(x, list(amounts), value, node) if mode == "constant" else f"{describe(node)} pads by {mode}"
    if node.target is operator.getitem:
        return _slice(x, node)
    return f"{describe(node)} is not linear"


def describe(node: fx.Node) -> str:
    """How reports call a node: `layer1.0.relu (ReLU)`, `max_pool2d`, `input x`."""
    if node.op == "call_module":
        return f"{node.target} ({type(module_of(node)).__name__})"
    if node.op == "placeholder":
        return f"input {node.name}"
    return node.name


def channel_axis(node: fx.Node, axes: int) -> int:
    """The axis of the channels in a value with ``axes`` spatial axes (0: channels last)."""
    return 1 if axes else len(node.meta["shape"]) - 1


def channels(node: fx.Node, axes: int) -> int:
    """The number of channels of the tensor that ``node`` gives."""
    return node.meta["shape"][channel_axis(node, axes)]


def positions(node: fx.Node, axes: int) -> tuple[int, ...]:
    """What a layer runs over in the tensor that ``node`` gives, per axis: pixels, or tokens where channels are last."""
    return node.meta["shape"][2:] if axes else node.meta["shape"][1:-1]


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
        return _diagonal(scale, axes), shift

    return AffineOp(x, Geometry.identity(mean.numel(), axes), weights, biased=True)


def _arithmetic(node: fx.Node, axes: int | None) -> AffineOp | str:
    """`c x + d` with constants that are numbers, or parameters with one number per channel."""
    kind, shape = _ARITHMETIC[node.target], node.meta.get("shape")
    values = [x for x in node.args if isinstance(x, fx.Node) and x.op != "get_attr" and x.meta.get("shape") == shape]
    constants = [tensor_of(x) if isinstance(x, fx.Node) else x for x in node.args if x not in values]
    known = all(isinstance(c, (int, float, Tensor)) for c in constants) and not node.kwargs
    if shape is None or len(shape) < 2 or len(values) != 1 or not known or len(constants) != (kind != "negative"):
        return f"{describe(node)} is not linear"
    (x,), (constant,), first = values, constants or [-1.0], node.args[0] is values[0]
    if kind == "/" and not first:
        return f"{describe(node)} is not linear"
    if any(isinstance(c, fx.Node) and c.meta.get("shared") for c in node.args if c is not x):
        return f"{describe(node)} shares its weights with another call"
    extents = (1,) * len(shape) if isinstance(constant, (int, float)) else tuple(constant.shape)
    wide = [axis - len(extents) + len(shape) for axis, extent in enumerate(extents) if extent > 1]
    if wide and wide not in ([1], [len(shape) - 1]):
        return f"{describe(node)} has a constant that is not one number per channel"
    if wide or axes is None:
        axes = 0 if wide and wide != [1] else len(shape) - 2
    size = channels(node, axes)

    def weights() -> tuple[Tensor, Tensor]:
        like = constant if isinstance(constant, Tensor) else _any_parameter(node)
        value = torch.as_tensor(constant, dtype=torch.float64, device=like.device).flatten().expand(size)
        one, zero = torch.ones_like(value), torch.zeros_like(value)
        scale, shift = {
            "+": (one, value),
            "-": (one, -value) if first else (-one, value),
            "*": (value, zero),
            "/": (one / value, zero),
            "negative": (-one, zero),
        }[kind]
        return _diagonal(scale, axes), shift

    return AffineOp(x, Geometry.identity(size, axes), weights, biased=kind in "+-")


def _pad(x: fx.Node, amounts: list[int], value: float | None, node: fx.Node) -> AffineOp | str:
    """Zero padding of spatial axes and of channels, and cropping (negative amounts), as a 1x1 convolution."""
    shape = x.meta["shape"]
    axes = len(shape) - 2
    if value:
        return f"{describe(node)} pads with {value}, not with zero"
    amounts = [*amounts, *[0] * (2 * (axes + 1) - len(amounts))]
    if len(amounts) > 2 * (axes + 1):
        return f"{describe(node)} pads the batch"
    # torch lists the last axis first
    *spatial, (before, after) = [(amounts[2 * i], amounts[2 * i + 1]) for i in range(axes + 1)]
    padding = tuple(reversed(spatial))
    if before == after == 0:
        return _identity(x, node, padding=padding)

    def weights() -> tuple[Tensor, Tensor]:
        rows = F.pad(
            torch.eye(shape[1], dtype=torch.float64, device=_any_parameter(node).device), (0, 0, before, after)
        )
        return rows.reshape(*rows.shape, *(1,) * axes), rows.new_zeros(rows.shape[0])

    geometry = Geometry.pointwise(shape[1], shape[1] + before + after, axes)
    return AffineOp(x, replace(geometry, padding=padding), weights)


def _average(x: fx.Node, pool: nn.Module, node: fx.Node) -> AffineOp | str:
    """Average pooling as a depthwise convolution whose taps are all the same."""
    shape = x.meta["shape"]
    axes = len(shape) - 2
    if {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}.get(axes) is not type(pool):
        return f"{describe(node)} runs on a tensor without a batch axis"
    kernel, stride, padding = (
        value if isinstance(value, tuple) else (value,) * axes
        for value in (pool.kernel_size, pool.stride, pool.padding)
    )
    floor = tuple((n + 2 * p - k) // s + 1 for n, k, s, p in zip(shape[2:], kernel, stride, padding, strict=True))
    if node.meta["shape"][2:] != floor or (any(padding) and not pool.count_include_pad):
        return f"{describe(node)} averages over fewer pixels at the borders"
    divisor = getattr(pool, "divisor_override", None) or math.prod(kernel)

    def weights() -> tuple[Tensor, Tensor]:
        taps = torch.full((shape[1], 1, *kernel), 1 / divisor, dtype=torch.float64, device=_any_parameter(node).device)
        return taps, taps.new_zeros(shape[1])

    geometry = Geometry.identity(shape[1], axes)
    geometry = replace(geometry, kernel=kernel, stride=stride, padding=tuple((p, p) for p in padding))
    return AffineOp(x, geometry, weights)


def _slice(x: fx.Node, node: fx.Node) -> AffineOp | str:
    """`x[:, a:b]`: some of the channels; `x[:, :, ::2, ::2]`: the identity with a stride."""
    shape, index = x.meta["shape"], node.args[1]
    index = index if isinstance(index, tuple) else (index,)
    refusal = f"{describe(node)} takes a part of the tensor"
    if len(index) > len(shape) or not all(isinstance(i, slice) and _is_constant(i) for i in index):
        return refusal
    index = (*index, *[slice(None)] * (len(shape) - len(index)))
    batch, chosen, *spatial = (range(n)[i] for n, i in zip(shape, index, strict=True))
    from_start = all(part == range(n)[:: part.step] for part, n in zip(spatial, shape[2:], strict=True))
    strides = tuple(part.step for part in spatial)
    if batch != range(shape[0]) or not from_start:
        return refusal
    if chosen == range(shape[1]):
        return _identity(x, node, stride=strides)
    return _select(x, list(chosen), node) if all(step == 1 for step in strides) else refusal


def _is_constant(part: slice) -> bool:
    return all(end is None or isinstance(end, int) for end in (part.start, part.stop, part.step))


def _identity(x: fx.Node, node: fx.Node, **changes: tuple) -> AffineOp:
    """The identity on the channels, with another padding or stride."""
    axes, size = len(x.meta["shape"]) - 2, x.meta["shape"][1]

    def weights() -> tuple[Tensor, Tensor]:
        ones = torch.ones(size, dtype=torch.float64, device=_any_parameter(node).device)
        return _diagonal(ones, axes), torch.zeros_like(ones)

    return AffineOp(x, replace(Geometry.identity(size, axes), **changes), weights)


def _select(x: fx.Node, chosen: list[int], node: fx.Node) -> AffineOp:
    """The channels ``chosen``, in that order."""
    axes, size = len(x.meta["shape"]) - 2, x.meta["shape"][1]

    def weights() -> tuple[Tensor, Tensor]:
        rows = torch.eye(size, dtype=torch.float64, device=_any_parameter(node).device)[chosen]
        return rows.reshape(*rows.shape, *(1,) * axes), rows.new_zeros(len(chosen))

    return AffineOp(x, Geometry.pointwise(size, len(chosen), axes), weights)


def range_of_shuffle(size: int, groups: int) -> list[int]:
    """Which channel a channel shuffle puts at each place."""
    return torch.arange(size).unflatten(0, (groups, -1)).T.flatten().tolist()


def _diagonal(scale: Tensor, axes: int) -> Tensor:
    """One factor per channel as the weight of a depthwise 1x1 convolution."""
    return scale.reshape(-1, 1, *(1,) * axes)


def _any_parameter(node: fx.Node) -> Tensor:
    """A tensor on the device of the network."""
    return next(node.graph.owning_module.parameters(), torch.empty(0))


def _arguments(node: fx.Node, names: tuple[str, ...], defaults: tuple[object, ...]) -> list[object]:
    given = dict(zip(names, node.args[1:], strict=False)) | dict(node.kwargs)
    return [given.get(name, default) for name, default in zip(names, defaults, strict=True)]
