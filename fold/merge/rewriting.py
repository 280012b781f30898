"""Put one layer in the place of each region, on a copy."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..algebra.affine_conv import AffineConv, transpose
from ..algebra.layers import CONVOLUTIONS, TRANSPOSED, layer_of
from ..graph.nodes import add_module, parameters_of, positions, target_of
from ..regions.borders import BiasMap
from ..regions.finding import Region
from ..regions.padding import pad_module
from .composing import compose


@dataclass(frozen=True)
class Merged:
    """The layer ``name`` that stands for ``region``; where its bias differs by pixel, ``border`` adds that."""

    region: Region
    name: str
    border: str | None

    def weights(self, value: AffineConv) -> dict[str, dict[str, Tensor]]:
        """``value`` as the parameters of these modules: module path to parameter name to tensor."""
        weight = transpose(value.weight, value.geometry.groups) if value.geometry.transposed else value.weight
        if self.border:
            return {self.name: {"weight": weight}, self.border: {"bias": value.bias}}
        return {self.name: {"weight": weight, "bias": value.bias}}


def merge(traced: fx.GraphModule, regions: list[Region]) -> tuple[fx.GraphModule, list[str]]:
    """``traced`` with each region replaced by one layer, and the names of the new layers. No check."""
    merged, layers = replace_regions(traced, regions)
    with torch.no_grad():
        for layer in layers.values():
            fill(merged, layer.weights(compose(layer.region)))
    return merged, list(layers)


def fill(merged: fx.GraphModule, weights: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Copy ``weights``, by module path and parameter name, into ``merged``, cast to its own dtype."""
    for path, parameters in weights.items():
        for name, value in parameters.items():
            getattr(merged.get_submodule(path), name).data.copy_(value)


def replace_regions(traced: fx.GraphModule, regions: list[Region]) -> tuple[fx.GraphModule, dict[str, Merged]]:
    """``traced`` with each region replaced by one layer whose weights are still to be filled in; these layers by name.

    ``traced`` is not modified; the layers that stay share their tensors with it.
    """
    result = copy.deepcopy(traced, {id(tensor): tensor for tensor in (*traced.parameters(), *traced.buffers())})
    nodes = dict(zip(traced.graph.nodes, result.graph.nodes, strict=True))
    layers = {}
    for region in regions:
        output, x = nodes[region.output], nodes[region.anchor]
        paths = {}
        with result.graph.inserting_before(output):
            for node in region.before:
                x = copied(nodes[node], x)
            for part, module in _modules(region).items():
                paths[part] = add_module(result, region_name(region) + part, module)
                x = result.graph.call_module(paths[part], (x,))
        layers[paths[""]] = Merged(region, paths[""], paths.get("_border"))
        output.replace_all_uses_with(x)
        for node in reversed(region.nodes):
            result.graph.erase_node(nodes[node])
        nodes[region.output] = x  # the next region may start here
    drop_unused(result)
    result.graph.lint()
    result.recompile()
    return result, layers


def copied(node: fx.Node, x: fx.Node) -> fx.Node:
    """A copy of ``node``, which reads one value, that reads ``x`` instead."""
    return node.graph.node_copy(node, lambda _: x)


def drop_unused(traced: fx.GraphModule) -> None:
    """Delete the modules, parameters and buffers that only merged layers used."""
    unread = {target_of(node) for node in traced.graph.nodes if node.op == "get_attr" and not node.users}
    for node in list(traced.graph.nodes):
        if node.op == "get_attr" and not node.users:
            traced.graph.erase_node(node)
    unread -= {target_of(node) for node in traced.graph.nodes if node.op == "get_attr"}
    for target in unread:
        owner, _, name = target.rpartition(".")
        delattr(traced.get_submodule(owner), name)
    traced.delete_all_unused_submodules()


def _modules(region: Region) -> dict[str, nn.Module]:
    """The modules for a region by the ending of their names, in order, their weights not yet set: the layer itself (no
    ending), like those it replaces; before it one that pads, where a convolution cannot itself; behind it a bias map.
    """
    old = [layer_of(node) for node in region.layers]
    g, like = region.geometry, old[0].weight
    modules: dict[str, nn.Module] = {}
    options: dict[str, Any] = {"dtype": like.dtype, "device": like.device, "bias": not region.mapped}
    if g.axes == 0:
        layer = nn.utils.skip_init(nn.Linear, g.in_channels, g.out_channels, **options)
    else:
        symmetric = g.transposed or all(lo == hi >= 0 for lo, hi in g.padding)
        if not symmetric:
            modules["_pad"] = pad_module(g.padding)
        kinds = TRANSPOSED if g.transposed else CONVOLUTIONS
        options |= {"stride": g.stride, "dilation": g.dilation, "groups": g.groups}
        options["padding"] = tuple(lo for lo, _ in g.padding) if symmetric else 0
        if g.transposed:
            options["output_padding"] = tuple(lo - hi for lo, hi in g.padding)
        layer = nn.utils.skip_init(kinds[g.axes - 1], g.in_channels, g.out_channels, g.kernel, **options)
        if g.axes == 2 and any(_channels_last(module.weight) for module in old):
            layer.to(memory_format=torch.channels_last)
    modules[""] = layer
    if region.mapped:
        modules["_border"] = BiasMap(like.new_zeros(g.out_channels, *positions(region.output, g.axes)))
    trainable = any(p.requires_grad for node in region.nodes for p in parameters_of(node))
    for module in modules.values():
        module.requires_grad_(trainable).train(old[0].training)
    return modules


def _channels_last(weight: Tensor) -> bool:
    """Whether a 2d kernel is stored channels last, which a 1x1 kernel cannot tell."""
    return weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()


def region_name(region: Region) -> str:
    """`layer1.0.conv1` and `layer1.0.conv2` merge to `layer1.0.conv1_conv2`."""
    paths = [target_of(node).split(".") for node in region.layers]
    shared = 0
    while all(len(path) > shared + 1 and path[shared] == paths[0][shared] for path in paths):
        shared += 1
    parent = paths[0][:shared]
    return ".".join([*parent, "_".join("_".join(path[shared:]) for path in paths)])
