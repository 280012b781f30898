"""Put a fitted layer in the place of its part of a graph, with a BatchNorm that leaves its function unchanged."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..algebra.geometry import Geometry
from ..algebra.layers import CONVOLUTIONS, layer_of
from ..graph.nodes import add_module, mark, shape_of
from ..merge.rewriting import copied, drop_unused, region_name
from ..regions.padding import pad_module
from .parts import Part

_NORM, _PAD = "_norm", "_pad"


@dataclass(frozen=True)
class FittedWeights:
    """A layer that was fitted, in float64: ``weight`` `[out, in / groups, *kernel]`, and ``bias`` `[out]`.

    ``mean`` and ``variance``, `[out]`, are those of what its BatchNorm reads for the images that were fitted on. With
    the shape "none" the weight is a scale per channel, and the BatchNorm reads the input.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    variance: Tensor


@dataclass(frozen=True)
class Placed:
    """The paths of what stands for a part: its ``layer`` (None: the shape is "none"), and the BatchNorm behind it.

    A linear layer on tokens has no BatchNorm, which would take the tokens for channels; it has a bias instead.
    """

    layer: str | None
    norm: str | None

    @property
    def name(self) -> str:
        """The path by which reports call it."""
        return self.layer or self.norm or ""


def twin(traced: fx.GraphModule) -> tuple[fx.GraphModule, dict[fx.Node, fx.Node]]:
    """A copy of ``traced``, and which node of ``traced`` is which in the copy."""
    changed = copy.deepcopy(traced)
    return changed, dict(zip(traced.graph.nodes, changed.graph.nodes, strict=True))


def place_all(traced: fx.GraphModule, parts: Iterable[Part]) -> tuple[fx.GraphModule, list[Placed]]:
    """A copy of ``traced`` in which layers with fresh weights stand for ``parts``, as after a fit; what was placed."""
    changed, nodes = twin(traced)
    return changed, [place(changed, nodes, part) for part in parts]


def place(changed: fx.GraphModule, nodes: dict[fx.Node, fx.Node], part: Part) -> Placed:
    """Replace ``part`` in the graph ``changed``, in place, by modules with fresh weights.

    The fitted layer is marked, so that folding merges it with its BatchNorm and its skips even where it stands alone.
    ``nodes`` says which node of the original graph is which one here; it is kept up to date.
    """
    region, graph = part.region, changed.graph
    old, name = layer_of(nodes[region.layers[0]]), region_name(region)
    options = {"dtype": old.weight.dtype, "device": old.weight.device}
    x, exact = nodes[region.anchor], [nodes[term] for term in part.exact]
    shape = shape_of(region.output)

    def call(suffix: str, module: nn.Module, x: fx.Node) -> tuple[str, fx.Node]:
        path = add_module(changed, name + suffix, module.train(old.training))
        return path, _shaped(graph.call_module(path, (x,)), shape)

    def add(a: fx.Node, b: fx.Node) -> fx.Node:
        return _shaped(graph.call_function(operator.add, (a, b)), shape)

    layer, norm = None, None
    with graph.inserting_before(nodes[region.output]):
        for node in region.before:
            x = copied(nodes[node], x)
        if part.crop is None:
            x, *exact = exact or [x]
            for term in exact:
                x = add(x, term)
            norm, x = call(_NORM, _norm(part.merged, options), x)
        else:
            g = part.crop.geometry
            if not _is_symmetric(g):
                _, x = call(_PAD, pad_module(g.padding), x)
            has_norm = g.axes > 0 or len(shape) == 2
            layer, x = call("", _layer(g, {"bias": not has_norm, **options}), x)
            if has_norm:
                norm, x = call(_NORM, _norm(g, options), x)
            for term in exact:
                x = add(x, term)
    nodes[region.output].replace_all_uses_with(x)
    for node in reversed(part.replaced):
        graph.erase_node(nodes[node])
    nodes[region.output] = x
    drop_unused(changed)
    graph.lint()
    changed.recompile()
    return Placed(layer, norm)


@torch.no_grad()
def fill(changed: fx.GraphModule, placed: Placed, value: FittedWeights) -> None:
    """Set the weights of what was placed so that it computes ``value``.

    The layer gets the weight, the BatchNorm the bias. Its statistics are those of what it reads on the calibration
    images, so that in training it starts with the same function.
    """
    scale = torch.ones_like(value.bias)
    if placed.layer is None:
        scale = value.weight.flatten()
    else:
        layer: Any = changed.get_submodule(placed.layer)
        layer.weight.copy_(value.weight)
        if placed.norm is None:
            layer.bias.copy_(value.bias)
            return
    norm: Any = changed.get_submodule(placed.norm or "")
    norm.running_mean.copy_(value.mean)
    norm.running_var.copy_(value.variance)
    norm.weight.copy_(scale * (norm.running_var.double() + norm.eps).sqrt())
    norm.bias.copy_(value.bias + scale * norm.running_mean.double())


def _layer(g: Geometry, options: dict[str, Any]) -> nn.Module:
    layer: nn.Module
    if g.axes == 0:
        layer = nn.Linear(g.in_channels, g.out_channels, **options)
    else:
        padding = tuple(lo for lo, _ in g.padding) if _is_symmetric(g) else 0
        kind: Callable[..., nn.Module] = CONVOLUTIONS[g.axes - 1]
        options = {"padding": padding, "dilation": g.dilation, "groups": g.groups, **options}
        layer = kind(g.in_channels, g.out_channels, g.kernel, g.stride, **options)
    mark(layer, "fitted")
    return layer


def _norm(g: Geometry, options: dict[str, Any]) -> nn.Module:
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    return kinds[max(g.axes, 1) - 1](g.out_channels, **options)


def _is_symmetric(g: Geometry) -> bool:
    """Whether a convolution can pad by itself as ``g`` does."""
    return all(lo == hi >= 0 for lo, hi in g.padding)


def _shaped(node: fx.Node, shape: tuple[int, ...]) -> fx.Node:
    node.meta["shape"] = shape
    return node
