"""ONNX nodes as the affine operations of `fold.algebra.affine_conv`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
import torch
from torch import Tensor

from layer_folding.fold.algebra.affine_conv import AffineConv, transpose
from layer_folding.fold.algebra.geometry import Geometry
from layer_folding.fold.algebra.operations import diagonal

from ..onnx_graph import constant, has_input

WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_ELEMENTWISE = {"Add", "Sub", "Mul", "Div", "Neg", "BatchNormalization", "Pad"}
_FLOATS = (np.float16, np.float32, np.float64)


@dataclass(frozen=True)
class Linear:
    """One node as an affine operation.

    ``weighted`` and ``biased`` are as in `fold.algebra.operations.AffineOp`; ``weights`` gives float64, when asked.
    A ``rigid`` one (a transposed convolution, or one that pads by the size of its input) merges with pointwise ones
    only.
    """

    geometry: Geometry
    weights: Callable[[], tuple[Tensor, Tensor]]
    weighted: bool = False
    biased: bool = False
    rigid: bool = False

    def affine(self) -> AffineConv:
        return AffineConv(self.geometry, *self.weights())


def source(node: gs.Node) -> gs.Tensor | None:
    """The value that ``node`` may be an affine operation on; None where it is none for sure."""
    if node.op not in WEIGHTED | _ELEMENTWISE or node.domain not in (None, "", "ai.onnx") or not node.outputs:
        return None
    if node.op in WEIGHTED:
        weight = constant(node, 1)
        if weight is None or weight.dtype not in _FLOATS or isinstance(node.inputs[0], gs.Constant):
            return None
        return node.inputs[0]
    values = [x for x in node.inputs if not isinstance(x, gs.Constant) and not x.is_empty()]
    return values[0] if len(values) == 1 else None


def read_weighted(node: gs.Node) -> Linear | None:
    """A Conv, ConvTranspose, Gemm or MatMul as an affine operation on its first input; None where it is not one."""
    if any(has_input(node, i) and constant(node, i) is None for i in range(1, len(node.inputs))):
        return None
    weight = constant(node, 1)
    if weight is None or weight.dtype not in _FLOATS:
        return None
    return {"Conv": _conv, "ConvTranspose": _transposed, "Gemm": _gemm, "MatMul": _matmul}[node.op](node, weight)


def read_elementwise(node: gs.Node, channels: int, axes: int) -> Linear | None:
    """Any other affine node, on ``channels`` channels and ``axes`` spatial axes; None where it is not one.

    Without spatial axes, channels are last.
    """
    if node.op == "Pad":
        return _pad(node, channels, axes)
    if node.op == "BatchNormalization":
        return _batch_norm(node, channels, axes)
    factor: float | np.ndarray = 1.0
    shift: float | np.ndarray = 0.0
    if node.op == "Neg":
        factor = -1.0
    else:
        place = 1 if isinstance(node.inputs[1], gs.Constant) else 0
        values = _per_channel(constant(node, place), node.inputs[1 - place], channels, axes)
        if values is None or (node.op == "Div" and place == 0):
            return None
        if node.op in ("Mul", "Div"):
            factor = values if node.op == "Mul" else 1 / values
        else:
            shift = -values if node.op == "Sub" and place == 1 else values
            factor = -1.0 if node.op == "Sub" and place == 0 else 1.0

    def weights() -> tuple[Tensor, Tensor]:
        ones = np.ones(channels)
        return diagonal(_tensor(factor * ones), axes), _tensor(shift * ones)

    return Linear(Geometry.identity(channels, axes), weights, biased=node.op in ("Add", "Sub"))


def rank(tensor: gs.Tensor) -> int | None:
    """The number of axes of ``tensor``, where it is known."""
    if tensor.inputs and tensor.inputs[0].op == "Gemm":
        return 2
    return None if tensor.shape is None else len(tensor.shape)


def _conv(node: gs.Node, weight: np.ndarray) -> Linear | None:
    axes, groups, auto = weight.ndim - 2, node.attrs.get("group", 1), node.attrs.get("auto_pad", "NOTSET")
    if axes < 1:
        return None
    pads = node.attrs.get("pads", [0] * 2 * axes) if auto == "NOTSET" else [0] * 2 * axes
    geometry = Geometry(
        weight.shape[1] * groups,
        weight.shape[0],
        tuple(weight.shape[2:]),
        tuple(node.attrs.get("strides", (1,) * axes)),
        tuple(zip(pads[:axes], pads[axes:], strict=True)),
        tuple(node.attrs.get("dilations", (1,) * axes)),
        groups,
    )
    bias = constant(node, 2)
    return Linear(
        geometry,
        lambda: (_tensor(weight), _bias(bias, len(weight))),
        weighted=True,
        biased=bias is not None,
        rigid=auto.startswith("SAME"),
    )


def _transposed(node: gs.Node, weight: np.ndarray) -> Linear | None:
    axes, groups, bias = weight.ndim - 2, node.attrs.get("group", 1), constant(node, 2)
    if axes < 1:
        return None
    # Its own attributes stay with it, so padding and strides do not matter here.
    ones = (1,) * axes
    geometry = Geometry(
        weight.shape[0],
        weight.shape[1] * groups,
        tuple(weight.shape[2:]),
        ones,
        ((0, 0),) * axes,
        ones,
        groups,
        transposed=True,
    )
    return Linear(
        geometry,
        lambda: (transpose(_tensor(weight), groups), _bias(bias, geometry.out_channels)),
        weighted=True,
        biased=bias is not None,
        rigid=True,
    )


def _gemm(node: gs.Node, weight: np.ndarray) -> Linear | None:
    if node.attrs.get("transA", 0) or weight.ndim != 2:
        return None
    if not node.attrs.get("transB", 0):
        weight = weight.T
    bias, outputs = constant(node, 2), len(weight)
    if bias is not None and bias.size != 1 and not bias.size == bias.shape[-1] == outputs:
        return None  # it may also add a matrix, or one number per row
    alpha, beta = node.attrs.get("alpha", 1.0), node.attrs.get("beta", 1.0)
    return Linear(
        Geometry.pointwise(weight.shape[1], outputs, axes=0),
        lambda: (alpha * _tensor(weight), beta * _bias(bias, outputs)),
        weighted=True,
        biased=bias is not None,
    )


def _matmul(node: gs.Node, weight: np.ndarray) -> Linear | None:
    if weight.ndim != 2:
        return None
    geometry = Geometry.pointwise(weight.shape[0], weight.shape[1], axes=0)
    return Linear(geometry, lambda: (_tensor(weight.T), _bias(None, weight.shape[1])), weighted=True)


def _pad(node: gs.Node, channels: int, axes: int) -> Linear | None:
    amounts, value = constant(node, 1), constant(node, 2)
    if node.attrs.get("mode", "constant") != "constant" or amounts is None or has_input(node, 3):
        return None
    if (has_input(node, 2) and (value is None or value.any())) or len(amounts) != 2 * (axes + 2):
        return None
    before, after = amounts.reshape(2, -1).tolist()
    if any(before[:2]) or any(after[:2]):
        return None
    one = Geometry.identity(channels, axes)
    geometry = Geometry(
        channels,
        channels,
        one.kernel,
        one.stride,
        tuple(zip(before[2:], after[2:], strict=True)),
        one.dilation,
        channels,
    )
    return Linear(geometry, lambda: (diagonal(_tensor(np.ones(channels)), axes), _bias(None, channels)))


def _batch_norm(node: gs.Node, channels: int, axes: int) -> Linear | None:
    values = [value for i in range(1, 5) if (value := constant(node, i)) is not None and value.size == channels]
    if node.attrs.get("training_mode", 0) or len(node.outputs) > 1 or len(values) < 4:
        return None
    if axes == 0 and rank(node.inputs[0]) != 2:  # its channels are axis 1, not the last
        return None
    gamma, beta, mean, variance = (v.astype(np.float64) for v in values)
    factor = gamma / np.sqrt(variance + node.attrs.get("epsilon", 1e-5))
    return Linear(
        Geometry.identity(channels, axes),
        lambda: (diagonal(_tensor(factor), axes), _tensor(beta - mean * factor)),
        biased=True,
    )


def _per_channel(values: np.ndarray | None, other: gs.Tensor, channels: int, axes: int) -> np.ndarray | None:
    """The constant as float64 [channels] or [1]; None where it is not one number per channel of ``other``."""
    if values is None or values.dtype not in _FLOATS:
        return None
    axis_count = axes + 2 if axes else rank(other)
    if values.ndim > (1 if axis_count is None else axis_count):
        return None
    channel_axis = 1 - (axes + 2) if axes else -1
    shape = [1] * max(values.ndim, -channel_axis)
    shape[len(shape) - values.ndim :] = values.shape
    extent = shape[channel_axis]
    if extent not in (1, channels) or values.size != extent:
        return None
    return values.astype(np.float64).reshape(-1)


def _bias(values: np.ndarray | None, channels: int) -> Tensor:
    return _tensor(np.zeros(channels) if values is None else np.broadcast_to(values.reshape(-1), channels))


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(values, np.float64))
