"""What each node of a graph is in the algebra: an affine operation on one value, or a reason why it is not one."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fold.affine import AffineConv, Geometry
from fold.trace import module_of

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
CONSTANT_PADS = (nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d)  # the ZeroPad classes among them
ADDITIONS = (operator.add, torch.add, "add")


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
    )


def is_passthrough(node: fx.Node) -> bool:
    """Whether ``node`` returns its input unchanged in eval mode."""
    return isinstance(module_of(node), (nn.Identity, *DROPOUTS))


def affine_op(node: fx.Node) -> AffineOp | str:
    """``node`` as an affine operation, or the reason why it is not one (also for anything nonlinear)."""
    module, shape = module_of(node), node.meta.get("shape")
    x = node.args[0] if node.args else None
    if not isinstance(x, fx.Node) or shape is None or x.meta.get("shape") is None or len(shape) < 2:
        return f"{describe(node)} is not an operation on one tensor"
    if isinstance(module, CONVOLUTIONS):
        return _convolution(x, module, node)
    if isinstance(module, nn.Linear):
        return _linear(x, module, node)
    if isinstance(module, BATCH_NORMS):
        return _batch_norm(x, module, node)
    if isinstance(module, CONSTANT_PADS):
        return _pad(x, list(module.padding), module.value, node)
    if node.target is F.pad:
        amounts, mode, value = _arguments(node, ("pad", "mode", "value"), (None, "constant", None))
        return _pad(x, list(amounts), value, node) if mode == "constant" else f"{describe(node)} pads by {mode}"
    if node.target is operator.getitem:
        return _strided_slice(x, node)
    return f"{describe(node)} is not linear"


def describe(node: fx.Node) -> str:
    """How reports call a node: `layer1.0.relu (ReLU)`, `max_pool2d`, `input x`."""
    if node.op == "call_module":
        return f"{node.target} ({type(module_of(node)).__name__})"
    if node.op == "placeholder":
        return f"input {node.name}"
    return node.name


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


def conv_padding(conv: nn.Module) -> tuple[tuple[int, int], ...]:
    """(before, after) per axis of a convolution module, `"same"` and `"valid"` resolved."""
    if isinstance(conv.padding, str):
        totals = [d * (k - 1) * (conv.padding == "same") for k, d in zip(conv.kernel_size, conv.dilation, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    return tuple((p, p) for p in conv.padding)


def _linear(x: fx.Node, linear: nn.Linear, node: fx.Node) -> AffineOp | str:
    if len(node.meta["shape"]) != 2:
        return f"{describe(node)} runs on a tensor with {len(node.meta['shape'])} axes; only [batch, features] folds"
    if node.meta.get("shared"):
        return f"{describe(node)} shares its weights with another call"
    geometry = Geometry.pointwise(linear.in_features, linear.out_features, axes=0)
    return AffineOp(x, geometry, lambda: _weight_and_bias(linear), weighted=True, biased=linear.bias is not None)


def _batch_norm(x: fx.Node, norm: nn.Module, node: fx.Node) -> AffineOp | str:
    if norm.running_mean is None:
        return f"{describe(node)} has no running statistics, so it is not a fixed affine map"
    if node.meta.get("shared"):
        return f"{describe(node)} shares its weights with another call"
    axes = len(node.meta["shape"]) - 2

    def weights() -> tuple[Tensor, Tensor]:
        scale = (norm.running_var.double() + norm.eps).rsqrt()
        if norm.weight is not None:
            scale = scale * norm.weight.double()
        shift = -norm.running_mean.double() * scale
        if norm.bias is not None:
            shift = shift + norm.bias.double()
        return scale.reshape(-1, 1, *(1,) * axes), shift

    return AffineOp(x, Geometry.identity(norm.num_features, axes), weights, biased=True)


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
    *spatial, channels = [(amounts[2 * i], amounts[2 * i + 1]) for i in range(axes + 1)]
    padding = tuple(reversed(spatial))
    before, after = channels
    if before == after == 0:
        geometry = Geometry.identity(shape[1], axes)
    else:
        geometry = Geometry.pointwise(shape[1], shape[1] + before + after, axes)
    geometry = Geometry(
        geometry.in_channels, geometry.out_channels, geometry.kernel, geometry.stride, padding, geometry.dilation,
        geometry.groups,
    )  # fmt: skip

    def weights() -> tuple[Tensor, Tensor]:
        parameter = next(node.graph.owning_module.parameters(), torch.empty(0))
        if before == after == 0:
            rows = torch.ones(shape[1], 1, dtype=torch.float64, device=parameter.device)
        else:
            rows = F.pad(torch.eye(shape[1], dtype=torch.float64, device=parameter.device), (0, 0, before, after))
        return rows.reshape(*rows.shape, *(1,) * axes), rows.new_zeros(rows.shape[0])

    return AffineOp(x, geometry, weights)


def _strided_slice(x: fx.Node, node: fx.Node) -> AffineOp | str:
    """`x[:, :, ::2, ::2]`: the identity with a stride."""
    shape, index = x.meta["shape"], node.args[1]
    index = index if isinstance(index, tuple) else (index,)
    whole = slice(None)
    plain = all(isinstance(i, slice) and i.start in (None, 0) and i.stop is None for i in index)
    if not plain or any(i != whole for i in index[:2]) or len(index) > len(shape):
        return f"{describe(node)} takes a part of the tensor"
    axes = len(shape) - 2
    steps = [i.step or 1 for i in index[2:]]
    one = Geometry.identity(shape[1], axes)
    geometry = Geometry(
        shape[1], shape[1], one.kernel, tuple(steps + [1] * (axes - len(steps))), one.padding, one.dilation, shape[1]
    )

    def weights() -> tuple[Tensor, Tensor]:
        parameter = next(node.graph.owning_module.parameters(), torch.empty(0))
        ones = torch.ones((shape[1], 1, *one.kernel), dtype=torch.float64, device=parameter.device)
        return ones, ones.new_zeros(shape[1])

    return AffineOp(x, geometry, weights)


def _weight_and_bias(layer: nn.Module) -> tuple[Tensor, Tensor]:
    weight = layer.weight.detach().double()
    bias = weight.new_zeros(weight.shape[0]) if layer.bias is None else layer.bias.detach().double()
    return weight, bias


def _arguments(node: fx.Node, names: tuple[str, ...], defaults: tuple[object, ...]) -> list[object]:
    given = dict(zip(names, node.args[1:], strict=False)) | dict(node.kwargs)
    return [given.get(name, default) for name, default in zip(names, defaults, strict=True)]


def spatial_size(node: fx.Node) -> tuple[int, ...]:
    """Pixels per spatial axis of the tensor that ``node`` gives."""
    return node.meta["shape"][2:]
