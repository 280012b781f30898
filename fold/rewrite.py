"""Merge regions: one layer for many, on a copy, checked in float64 before anybody sees it."""

from __future__ import annotations

import copy
import functools
from collections.abc import Collection
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn

from fold.affine import AffineConv, transpose
from fold.border import BiasMap, bias_map
from fold.check import check_region, relative, require, require_finite, require_same_trace
from fold.commute import axes_after
from fold.errors import InputError
from fold.exact import run
from fold.graph import add_module, channels, module_of
from fold.layers import (
    BATCH_NORMS,
    CONVOLUTIONS,
    DROPOUTS,
    TRANSPOSED,
    affine_op,
    is_addition,
    is_concatenation,
    is_passthrough,
    operands,
)
from fold.padding import pad_module
from fold.regions import Region, Skipped, find_regions, foldable_activations
from fold.trace import Activation, trace


@dataclass(frozen=True)
class Merge:
    """What became, or could become, of one region.

    ``layers`` and ``activations`` are module paths, the activations those whose removal the merge rests on.
    ``kernel``, ``stride`` and ``groups`` are the merged layer's; ``macs`` (per image) and ``parameters`` are (before,
    after). ``name`` is the merged layer's path and ``error`` its measured relative error in float64 (fold only).
    """

    layers: tuple[str, ...]
    activations: tuple[str, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    groups: int
    macs: tuple[int, int]
    parameters: tuple[int, int]
    name: str | None = None
    error: float | None = None


@dataclass(frozen=True)
class FoldResult:
    """``model`` with its regions merged; what was ``folded``, what was ``skipped`` and why, the largest error."""

    model: fx.GraphModule
    folded: list[Merge]
    skipped: list[Skipped]
    max_error: float


@dataclass(frozen=True)
class Scan:
    """What could be folded if the activations named in each candidate went, and what could not, with the reason."""

    candidates: list[Merge]
    skipped: list[Skipped]


def fold(model: nn.Module, example: Tensor, average_pooling: bool = False) -> FoldResult:
    """Merge every affine region of ``model`` into one layer each, exactly.

    The function computed stays the same up to rounding: a region that is not exact at its borders is left alone and
    listed in ``skipped`` (`hoist_padding` makes it exact, at the price of a change there). Before anything is
    returned, original and merged network are compared in float64, and so is each region, as it is and with random
    BatchNorm statistics; the network itself is never converted as a whole. Nothing to fold gives ``folded == []``.

    Args:
        model: a network in eval mode whose unwanted activations are gone; it is not modified.
        example: one input batch `[batch, in, *spatial]`; only its shape, dtype and device matter.
        average_pooling: merge average poolings too, as the convolutions that they are.

    Raises:
        InputError: the network or one of its BatchNorms or Dropouts is in training mode, the network cannot be
            traced, or it does not accept ``example``.
        CheckError: a merged layer differs from what it replaces by more than 1e-9 (relative, float64), or the output
            is not finite.
    """
    for name, module in model.named_modules():
        if module.training and (module is model or isinstance(module, (*BATCH_NORMS, *DROPOUTS))):
            what = f"layer {name}" if name else "the network"
            raise InputError(f"{what} is in training mode, where it is not a fixed map; call .eval() first")
    traced = trace(model, example, average_pooling=average_pooling)
    regions, skipped = find_regions(traced)
    x = torch.randn(example.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(example.device)
    with torch.no_grad():
        output, anchors = run(traced, x, {region.anchor for region in regions})
        require_finite(output, type(model).__name__)
        require_same_trace(traced, model, x.to(example.dtype))
        values = [_compose(region) for region in regions]
        errors = [check_region(r, v, _compose, anchors[r.anchor]) for r, v in zip(regions, values, strict=True)]
        del anchors
        whole = relative(run(merge(traced, regions, values, torch.float64)[0], x)[0], output)
        require(whole, "the folded network")
        merged, names = merge(traced, regions, values)
    folded = [
        replace(describe_region(region), name=name, error=error)
        for region, name, error in zip(regions, names, errors, strict=True)
    ]
    return FoldResult(merged, folded, skipped, max([whole, *errors]))


def scan(
    model: nn.Module, example: Tensor, activations: Collection[Activation] = (), average_pooling: bool = False
) -> Scan:
    """A dry run: the regions that would merge if every activation that is in the way, and only those, were removed.

    Takes what `fold` takes, in any mode and with its activations in place, and raises InputError as `fold` does.
    Padding is taken as hoisted, except in the multiply-accumulates before merging: those are of ``model`` as it is.
    ``activations`` are functions and classes to be taken for activations too, and ``average_pooling`` takes average
    poolings for convolutions, see `fold.trace.trace`.
    """
    traced = trace(model, example, activations, average_pooling)
    regions, skipped = find_regions(traced, foldable_activations(traced), any_padding=True)
    return Scan([describe_region(region) for region in regions], skipped)


def describe_region(region: Region) -> Merge:
    return Merge(
        layers=tuple(node.target for node in region.layers),
        activations=tuple(node.target for node in region.removed),
        kernel=region.geometry.kernel,
        stride=region.geometry.stride,
        groups=region.geometry.groups,
        macs=region.macs,
        parameters=region.parameters,
    )


def merge(
    traced: fx.GraphModule,
    regions: list[Region],
    values: list[AffineConv] | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[fx.GraphModule, list[str]]:
    """``traced`` with each region replaced by one layer, and the names of the new layers. No check.

    ``traced`` is not modified; the layers that stay share their tensors with it. ``values`` are those of the regions
    where they are known already, ``dtype`` is that of the new layers where it is not that of the old. Works
    on the meta device too, where it costs nothing and gives the structure alone.
    """
    if values is None:
        with torch.no_grad():
            values = [_compose(region) for region in regions]
    result = copy.deepcopy(traced, {id(tensor): tensor for tensor in (*traced.parameters(), *traced.buffers())})
    nodes = dict(zip(traced.graph.nodes, result.graph.nodes, strict=True))
    names = []
    for region, value in zip(regions, values, strict=True):
        output, x = nodes[region.output], nodes[region.anchor]
        name = _name(region)
        with result.graph.inserting_before(output):
            for node in region.before:
                x = result.graph.node_copy(nodes[node], lambda _, x=x: x)
            for part, module in _layers(value, region, dtype).items():
                path = add_module(result, name + part, module)
                x = result.graph.call_module(path, (x,))
                if not part:
                    names.append(path)
        output.replace_all_uses_with(x)
        for node in reversed(region.nodes):
            result.graph.erase_node(nodes[node])
        nodes[region.output] = x  # the next region may start here
    _drop_unused(result)
    result.graph.lint()
    result.recompile()
    return result, names


def _drop_unused(traced: fx.GraphModule) -> None:
    """Delete the modules, parameters and buffers that only merged layers used."""
    unread = {node.target for node in traced.graph.nodes if node.op == "get_attr" and not node.users}
    for node in list(traced.graph.nodes):
        if node.op == "get_attr" and not node.users:
            traced.graph.erase_node(node)
    unread -= {node.target for node in traced.graph.nodes if node.op == "get_attr"}
    for target in unread:
        owner, _, name = target.rpartition(".")
        delattr(traced.get_submodule(owner), name)
    traced.delete_all_unused_submodules()


def _compose(region: Region) -> AffineConv:
    """The region as one convolution of its anchor, in float64."""
    values: dict[fx.Node, AffineConv | None] = {region.anchor: None}  # None: the anchor itself
    like = module_of(region.layers[0]).weight.detach().double()
    for node in region.nodes:
        parts = [values[x] for x in operands(node)]
        if is_addition(node) or is_concatenation(node):
            axes = next((part.geometry.axes for part in parts if part is not None), len(node.meta["shape"]) - 2)
            one = AffineConv.identity(channels(region.anchor, axes), axes, like)
            join = AffineConv.plus if is_addition(node) else AffineConv.beside
            values[node] = functools.reduce(join, [part or one for part in parts])
        elif is_passthrough(node) or node in region.removed:
            values[node] = parts[0]
        elif node in region.before:
            values[node] = parts[0].on(axes_after(node, parts[0].geometry.axes))
        else:
            own = affine_op(node, None if parts[0] is None else parts[0].geometry.axes).affine()
            values[node] = own if parts[0] is None else parts[0].then(own)
    value = values[region.output]
    return replace(value, bias=bias_map(region)) if region.mapped else value


def _layers(value: AffineConv, region: Region, dtype: torch.dtype | None) -> dict[str, nn.Module]:
    """The value as modules, by the ending of their names, in order: the layer itself, which is like those it replaces
    (no ending), before it one that pads, where a convolution cannot itself, and behind it one that adds a bias map.
    """
    old = [module_of(node) for node in region.layers]
    g, like, layers = value.geometry, old[0].weight, {}
    dtype = dtype or like.dtype
    options = {"dtype": dtype, "device": like.device, "bias": not region.mapped}
    if g.axes == 0:
        layer = nn.utils.skip_init(nn.Linear, g.in_channels, g.out_channels, **options)
    else:
        symmetric = g.transposed or all(lo == hi >= 0 for lo, hi in g.padding)
        if not symmetric:
            layers["_pad"] = pad_module(g.padding)
        kinds = TRANSPOSED if g.transposed else CONVOLUTIONS
        options |= {"stride": g.stride, "dilation": g.dilation, "groups": g.groups}
        options["padding"] = tuple(lo for lo, _ in g.padding) if symmetric else 0
        if g.transposed:
            options["output_padding"] = tuple(lo - hi for lo, hi in g.padding)
        layer = nn.utils.skip_init(kinds[g.axes - 1], g.in_channels, g.out_channels, g.kernel, **options)
    layers[""] = layer
    weight = transpose(value.weight, g.groups) if g.transposed else value.weight
    channels_last = g.axes == 2 and any(_channels_last(module.weight) for module in old)
    layer.weight.data = weight.to(dtype).contiguous(
        memory_format=torch.channels_last if channels_last else torch.contiguous_format
    )
    if region.mapped:
        layers["_border"] = BiasMap(value.bias.to(dtype))
    else:
        layer.bias.data = value.bias.to(dtype).clone()
    trainable = any(p.requires_grad for node in region.nodes if module_of(node) for p in module_of(node).parameters())
    for module in layers.values():
        module.requires_grad_(trainable).train(old[0].training)
    return layers


def _channels_last(weight: Tensor) -> bool:
    """Whether a 2d kernel is stored channels last, which a 1x1 kernel cannot tell."""
    return weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()


def _name(region: Region) -> str:
    """`layer1.0.conv1` and `layer1.0.conv2` merge to `layer1.0.conv1_conv2`."""
    paths = [node.target.split(".") for node in region.layers]
    shared = 0
    while all(len(path) > shared + 1 and path[shared] == paths[0][shared] for path in paths):
        shared += 1
    parent = paths[0][:shared]
    return ".".join([*parent, "_".join("_".join(path[shared:]) for path in paths)])
