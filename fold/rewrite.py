"""Merge regions: one layer for many, on a copy, checked in float64 before anybody sees it."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn

from fold.affine import AffineConv
from fold.errors import CheckError, InputError
from fold.layers import BATCH_NORMS, DROPOUTS, affine_op, is_addition, is_passthrough
from fold.padding import pad_module
from fold.regions import Region, Skipped, find_regions, foldable_activations
from fold.trace import add_module, module_of, trace

TOLERANCE = 1e-9  # of the largest value, in float64


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


def fold(model: nn.Module, example: Tensor) -> FoldResult:
    """Merge every affine region of ``model`` into one layer each, exactly.

    The function computed stays the same up to rounding: a region that is not exact at its borders is left alone and
    listed in ``skipped`` (`hoist_padding` makes it exact, at the price of a change there). Before anything is
    returned, original and merged network are compared in float64, as they are and with randomised BatchNorm
    statistics, per region and end to end. Nothing to fold gives ``folded == []``.

    Args:
        model: a network in eval mode whose unwanted activations are gone; it is not modified.
        example: one input batch `[batch, in, *spatial]`; only its shape, dtype and device matter.

    Raises:
        InputError: the network or one of its BatchNorms or Dropouts is in training mode, the network cannot be
            traced, or it does not accept ``example``.
        CheckError: a merged layer differs from what it replaces by more than 1e-9 (relative, float64).
    """
    for name, module in model.named_modules():
        if module.training and (module is model or isinstance(module, (*BATCH_NORMS, *DROPOUTS))):
            what = f"layer {name}" if name else "the network"
            raise InputError(f"{what} is in training mode, where it is not a fixed map; call .eval() first")
    traced = trace(model, example)
    regions, skipped = find_regions(traced)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(example.shape, generator=generator, dtype=torch.float64).to(example.device)
    with torch.no_grad():
        expected = copy.deepcopy(model).double()(x)
        exact = copy.deepcopy(traced).double()
        own = _in_copy(regions, traced, exact)
        values = [_compose(region) for region in own]
        real = _check(exact, own, values, x, expected)
        merged, names = _emit(traced, regions, values)
        _randomise_statistics(exact, generator)
        for i, region in enumerate(own):
            if any(isinstance(module_of(node), BATCH_NORMS) for node in region.nodes):
                values[i] = _compose(region)
        errors = [max(pair) for pair in zip(real, _check(exact, own, values, x), strict=True)]
    folded = [
        replace(describe_region(region), name=name, error=error)
        for region, name, error in zip(regions, names, errors[:-1], strict=True)
    ]
    return FoldResult(copy.deepcopy(merged), folded, skipped, max(errors))


def scan(model: nn.Module, example: Tensor) -> Scan:
    """A dry run: the regions that would merge if every activation that is in the way, and only those, were removed.

    Takes what `fold` takes, in any mode and with its activations in place, and raises InputError as `fold` does.
    Padding is taken as hoisted, except in the multiply-accumulates before merging: those are of ``model`` as it is.
    """
    traced = trace(model, example)
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


def merge(traced: fx.GraphModule, regions: list[Region]) -> tuple[fx.GraphModule, list[str]]:
    """A copy of ``traced`` with each region replaced by one layer, and the names of the new layers. No check.

    Works on the meta device too, where it costs nothing and gives the structure alone.
    """
    with torch.no_grad():
        merged, names = _emit(traced, regions, [_compose(region) for region in regions])
    return copy.deepcopy(merged), names


def _emit(traced: fx.GraphModule, regions: list[Region], values: list[AffineConv]) -> tuple[fx.GraphModule, list[str]]:
    """As `merge`, with the regions' values given; the layers that stay share their tensors with ``traced``."""
    result = copy.deepcopy(traced, {id(tensor): tensor for tensor in (*traced.parameters(), *traced.buffers())})
    nodes = dict(zip(traced.graph.nodes, result.graph.nodes, strict=True))
    names = []
    for region, value in zip(regions, values, strict=True):
        output, anchor = nodes[region.output], nodes[region.anchor]
        pads, layer = _layer(value, region)
        name = add_module(result, _name(region), layer)
        names.append(name)
        with result.graph.inserting_before(output):
            if pads is not None:
                anchor = result.graph.call_module(add_module(result, f"{name}_pad", pads), (anchor,))
            call = result.graph.call_module(name, (anchor,))
        output.replace_all_uses_with(call)
        for node in reversed(region.nodes):
            result.graph.erase_node(nodes[node])
        nodes[region.output] = call  # the next region may start here
    result.delete_all_unused_submodules()
    result.graph.lint()
    result.recompile()
    return result, names


def _in_copy(regions: list[Region], traced: fx.GraphModule, copied: fx.GraphModule) -> list[Region]:
    """The same regions, in a copy of their graph."""
    nodes = dict(zip(traced.graph.nodes, copied.graph.nodes, strict=True))
    return [
        replace(r, anchor=nodes[r.anchor], output=nodes[r.output], nodes=tuple(nodes[node] for node in r.nodes))
        for r in regions
    ]


def _compose(region: Region) -> AffineConv:
    """The region as one convolution of its anchor, in float64."""
    values: dict[fx.Node, AffineConv | None] = {region.anchor: None}  # None: the anchor itself
    like = module_of(region.layers[0]).weight.detach().double()
    for node in region.nodes:
        before = [values[x] for x in (node.args if is_addition(node) else node.args[:1])]
        if is_addition(node):
            one = AffineConv.identity(node.meta["shape"][1], region.geometry.axes, like)
            values[node] = (before[0] or one).plus(before[1] or one)
        elif is_passthrough(node):
            values[node] = before[0]
        else:
            own = affine_op(node).affine()
            values[node] = own if before[0] is None else before[0].then(own)
    return values[region.output]


def _layer(value: AffineConv, region: Region) -> tuple[nn.Module | None, nn.Module]:
    """The value as a module like those it replaces; first a module that pads, where a convolution cannot itself."""
    layers = [module_of(node) for node in region.layers]
    g, pads, like = value.geometry, None, layers[0].weight
    options = {"dtype": like.dtype, "device": like.device}
    if g.axes == 0:
        layer = nn.utils.skip_init(nn.Linear, g.in_channels, g.out_channels, **options)
    else:
        symmetric = all(lo == hi >= 0 for lo, hi in g.padding)
        kind = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[g.axes]
        padding = tuple(lo for lo, _ in g.padding) if symmetric else 0
        layer = nn.utils.skip_init(
            kind, g.in_channels, g.out_channels, g.kernel, g.stride, padding, g.dilation, g.groups, **options
        )
        pads = None if symmetric else pad_module(g.padding)
    channels_last = g.axes == 2 and any(_channels_last(old.weight) for old in layers)
    layer.weight.data = value.weight.to(like.dtype).contiguous(
        memory_format=torch.channels_last if channels_last else torch.contiguous_format
    )
    layer.bias.data = value.bias.to(like.dtype)
    trainable = any(p.requires_grad for node in region.nodes if module_of(node) for p in module_of(node).parameters())
    return pads, layer.requires_grad_(trainable).train(layers[0].training)


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


def _check(
    exact: fx.GraphModule, regions: list[Region], values: list[AffineConv], x: Tensor, network: object = None
) -> list[float]:
    """The relative error of each region's value, then of the merged network, on ``x``; all in float64.

    ``network`` is the output of the network that was traced, where that is to be checked too.
    """
    expected, kept = _run(exact, x, {node for region in regions for node in (region.anchor, region.output)})
    if network is not None:
        remedy = "torch.fx does not see writes to views or under other names: write out of place"
        _require(_relative(expected, network), "the graph that was traced", remedy)
    errors = []
    for region, value in zip(regions, values, strict=True):
        errors.append(_relative(value(kept[region.anchor]), kept[region.output]))
        _require(errors[-1], f"merging {', '.join(node.target for node in region.layers)}")
    del kept
    errors.append(_relative(_emit(exact, regions, values)[0](x), expected))
    _require(errors[-1], "the folded network")
    return errors


def _require(error: float, what: str, remedy: str = "please report this") -> None:
    if not error <= TOLERANCE:  # also where it is not a number
        raise CheckError(f"{what} is off by {error:.1e} (relative, float64); {remedy}")


def _run(traced: fx.GraphModule, x: Tensor, keep: set[fx.Node]) -> tuple[object, dict[fx.Node, Tensor]]:
    """The output of the graph, and the values of the nodes in ``keep``."""
    kept = {}

    class Keep(fx.Interpreter):
        def run_node(self, node: fx.Node) -> object:
            value = super().run_node(node)
            if node in keep:
                kept[node] = value
            return value

    return Keep(traced).run(x), kept


def _relative(actual: object, expected: object) -> float:
    """The largest difference over the largest value, over all tensors of a (nested) output."""
    if isinstance(expected, Tensor):
        if not expected.numel():
            return 0.0
        actual, expected = actual.double(), expected.double()
        scale = expected.abs().max().clamp_min(torch.finfo(torch.float64).tiny)
        return ((actual - expected).abs().max() / scale).item()
    if isinstance(expected, dict):
        actual, expected = actual.values(), expected.values()
    elif not isinstance(expected, (list, tuple)):
        return 0.0 if actual == expected else math.inf
    return max((_relative(a, e) for a, e in zip(actual, expected, strict=True)), default=0.0)


def _randomise_statistics(model: nn.Module, generator: torch.Generator) -> None:
    """BatchNorm statistics and affine parameters away from 0 and 1, which would hide mistakes."""

    def fill(tensor: Tensor | None, low: float, high: float) -> None:
        if tensor is not None:
            tensor.data.copy_(torch.rand(tensor.shape, generator=generator, dtype=torch.float64) * (high - low) + low)

    for module in model.modules():
        if isinstance(module, BATCH_NORMS):
            for tensor, low, high in (
                (module.running_mean, -1, 1),
                (module.running_var, 0.5, 2),
                (module.weight, 0.5, 1.5),
                (module.bias, -1, 1),
            ):
                fill(tensor, low, high)
