"""Fold chains of affine nodes into one Conv, Gemm or MatMul, in float64, by the algebra of `fold`.

Padding, BatchNormalization and arithmetic with constants go into the weights beside them; adjacent linear layers become
one. The rules are those of `fold`: nothing merges that would be wrong at the borders, nor over a bottleneck. A merge
that more than doubles the multiply-accumulates is refused, too, because here nobody asked for it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import onnx_graphsurgeon as gs
import torch

from layer_folding.fold.algebra.affine_conv import AffineConv, transpose
from layer_folding.fold.algebra.geometry import Geometry
from layer_folding.fold.regions.costs import MAX_GROWTH

from ..onnx_graph import only_reader, remove, seen_elsewhere
from .linear import WEIGHTED, Linear, rank, read_elementwise, read_weighted, source


@dataclass(frozen=True)
class _Run:
    """Nodes in a row, each the only reader of the one before, and what they are together."""

    nodes: tuple[gs.Node, ...]
    parts: tuple[Linear, ...]
    geometry: Geometry
    weighted: bool
    biased: bool
    rigid: bool


def fold_linear(graph: gs.Graph) -> int:
    """Fold what is affine into the layer beside it; returns the number of nodes that this removed."""
    elsewhere = seen_elsewhere(graph)
    before = len(graph.nodes)
    visited: set[int] = set()
    for node in list(graph.nodes):
        if id(node) in visited or source(node) is None:
            continue
        chain = _chain(node, elsewhere)
        visited |= {id(entry) for entry in chain}
        for run in _runs(chain):
            _emit(graph, run)
    return before - len(graph.nodes)


def _chain(node: gs.Node, elsewhere: set[str]) -> list[gs.Node]:
    chain = [node]
    while True:
        value = chain[-1].outputs[0]
        reader = only_reader(value, elsewhere)
        if reader is None or source(reader) is not value:
            return chain
        chain.append(reader)


def _runs(chain: list[gs.Node]) -> list[_Run]:
    """The parts of ``chain`` that can each be one layer."""
    runs: list[_Run | None] = []
    run: _Run | None = None
    for index, node in enumerate(chain):
        part = _read(chain, index, run)
        grown = _grow(run, node, part) if run is not None and part is not None else None
        if grown is None:
            runs.append(run)
            part = part if run is None else _read(chain, index, None)
            grown = None if part is None else _started(node, part)
        run = grown
    return [run for run in [*runs, run] if run is not None and run.weighted and len(run.nodes) > _emitted(run)]


def _read(chain: list[gs.Node], index: int, run: _Run | None) -> Linear | None:
    node = chain[index]
    if node.op in WEIGHTED:
        return read_weighted(node)
    if run is not None:
        return read_elementwise(node, run.geometry.out_channels, run.geometry.axes)
    # What comes first has the channels that the next layer reads.
    following = next((read_weighted(later) for later in chain[index:] if later.op in WEIGHTED), None)
    return following and read_elementwise(node, following.geometry.in_channels, following.geometry.axes)


def _started(node: gs.Node, part: Linear) -> _Run:
    return _Run((node,), (part,), part.geometry, part.weighted, part.biased, part.rigid)


def _grow(run: _Run, node: gs.Node, part: Linear) -> _Run | None:
    """``run`` with ``node`` behind it; None where that is not one layer, or not one that pays."""
    first, second = run.geometry, part.geometry
    if (first.out_channels, first.axes) != (second.in_channels, second.axes) or not _is_exact(run, part):
        return None
    merged = first.then(second)
    if any(amount < 0 for pads in merged.padding for amount in pads):
        return None
    if run.weighted and part.weighted:
        if second.in_channels < min(first.in_channels, second.out_channels):
            return None  # a bottleneck
        pixels = tuple(second.stride)  # of the first layer for one of the second
        if merged.macs((1,) * merged.axes) > MAX_GROWTH * (first.macs(pixels) + second.macs((1,) * second.axes)):
            return None
    return _Run(
        (*run.nodes, node),
        (*run.parts, part),
        merged,
        run.weighted or part.weighted,
        run.biased or part.biased,
        run.rigid or part.rigid,
    )


def _is_exact(run: _Run, part: Linear) -> bool:
    """Whether one layer computes the same at the borders, where ``part`` reads zeros in place of values of ``run``."""
    if part.rigid:
        return run.geometry.is_pointwise and not run.biased
    if run.rigid:
        return part.geometry.is_pointwise
    return all(
        max(pads) <= 0 or (kernel == 1 and min(before) >= 0 and not run.biased)
        for pads, kernel, before in zip(part.geometry.padding, run.geometry.kernel, run.geometry.padding, strict=True)
    )


def _is_flat(run: _Run) -> bool:
    """Whether its values have two axes, [N, channels], which is what a Gemm takes."""
    return run.geometry.axes == 0 and (any(n.op == "Gemm" for n in run.nodes) or rank(run.nodes[-1].outputs[0]) == 2)


def _emitted(run: _Run) -> int:
    """The number of nodes that it takes to write ``run``: a MatMul has no bias."""
    return 2 if run.geometry.axes == 0 and run.biased and not _is_flat(run) else 1


def _emit(graph: gs.Graph, run: _Run) -> None:
    """Write ``run`` as one layer in its place; a layer that stays alone keeps its names."""
    value = functools.reduce(AffineConv.then, (part.affine() for part in run.parts))
    layers = [node for node in run.nodes if node.op in WEIGHTED]
    dtype = layers[0].inputs[1].values.dtype
    name, result = "+".join(node.name for node in layers), run.nodes[-1].outputs[0]
    operator, attributes, weight = _layer(run, value)
    inputs = [
        source(run.nodes[0]),
        gs.Constant(_name(graph, layers, 1, f"{name}.weight"), weight.numpy().astype(dtype)),
    ]
    if run.biased:
        bias = gs.Constant(_name(graph, layers, 2, f"{name}.bias"), value.bias.numpy().astype(dtype))
        inputs.append(bias)
    new = [gs.Node(operator, name, attributes, inputs)]
    if operator == "MatMul" and run.biased:
        inputs.pop()
        product = gs.Variable(f"{result.name}_product", result.dtype, result.shape)
        new = [gs.Node(operator, name, {}, inputs, [product]), gs.Node("Add", f"{name}_bias", {}, [product, bias])]
    at = next(i for i, entry in enumerate(graph.nodes) if entry is run.nodes[-1])
    graph.nodes[at + 1 : at + 1] = new
    for node in run.nodes:
        remove(graph, node)
    new[-1].outputs = [result]


def _layer(run: _Run, value: AffineConv) -> tuple[str, dict, torch.Tensor]:
    """Operator, attributes and weight of the node that computes ``value``, but for its bias."""
    g = value.geometry
    if g.axes == 0:
        return ("Gemm", {"transB": 1}, value.weight) if _is_flat(run) else ("MatMul", {}, value.weight.T)
    rigid = next((node for node, part in zip(run.nodes, run.parts, strict=True) if part.rigid), None)
    if rigid is not None:
        weight = transpose(value.weight, g.groups) if rigid.op == "ConvTranspose" else value.weight
        return rigid.op, {**rigid.attrs, "group": g.groups}, weight
    begins, ends = zip(*g.padding, strict=True)
    attributes = {
        "kernel_shape": list(g.kernel),
        "strides": list(g.stride),
        "pads": [*begins, *ends],
        "dilations": list(g.dilation),
        "group": g.groups,
    }
    return "Conv", attributes, value.weight


def _name(graph: gs.Graph, layers: list[gs.Node], index: int, fallback: str) -> str:
    """A name for input ``index`` of what ``layers`` become: the old one, where that goes with the only layer."""
    old = layers[0].inputs[index] if len(layers) == 1 and index < len(layers[0].inputs) else None
    if isinstance(old, gs.Constant) and len(old.outputs) == 1:
        return old.name
    taken, name, number = graph.tensors(), fallback, 1
    while name in taken:
        name, number = f"{fallback}_{number}", number + 1
    return name
