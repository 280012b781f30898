"""Merge regions: one layer for many, on a copy, checked in float64 before anybody sees it."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn

from fold.affine import AffineConv
from fold.errors import CheckError, InputError
from fold.layers import BATCH_NORMS, affine_op, is_addition, is_passthrough
from fold.padding import pad_module
from fold.regions import Region, Skipped, find_regions, foldable_activations
from fold.trace import add_module, trace

TOLERANCE = 1e-9  # of the largest value, in float64


@dataclass(frozen=True)
class Merge:
    """What became, or could become, of one region.

    ``macs`` (per image) and ``parameters`` are (before, after). ``activations`` are those whose removal the merge
    rests on. ``name`` is the merged layer's path and ``error`` its measured relative error in float64 (fold only).
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
        example: one input batch; only its shape, dtype and device matter.

    Raises:
        InputError: the network is in training mode, cannot be traced, or does not accept ``example``.
        CheckError: a merged layer differs from what it replaces by more than 1e-9 (relative, float64).
    """
    if model.training:
        raise InputError("the network is in training mode, where BatchNorm is not a fixed map; call .eval() first")
    traced = trace(model, example)
    regions, skipped = find_regions(traced)
    errors = _check(traced, regions, example)
    merged, names = merge(traced, regions)
    folded = [
        replace(describe_region(region), name=name, error=error)
        for region, name, error in zip(regions, names, errors, strict=False)
    ]
    return FoldResult(merged, folded, skipped, max(errors))


def scan(model: nn.Module, example: Tensor) -> Scan:
    """A dry run: the regions that would merge if every activation that is in the way, and only those, were removed.

    Works on networks with their activations in place and in any mode; padding is taken as hoisted.

    Raises:
        InputError: the network cannot be traced or does not accept ``example``.
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
    """A copy of ``traced`` with each region replaced by one layer, and the names of the new layers. No check."""
    result = copy.deepcopy(traced)
    nodes = {node.name: node for node in result.graph.nodes}
    names = []
    for region in regions:
        output, anchor = nodes[region.output.name], nodes[region.anchor.name]
        pads, layer = _layer(_compose(region), region)
        name = add_module(result, _name(region), layer)
        names.append(name)
        with result.graph.inserting_before(output):
            if pads is not None:
                anchor = result.graph.call_module(add_module(result, f"{name}_pad", pads), (anchor,))
            call = result.graph.call_module(name, (anchor,))
        output.replace_all_uses_with(call)
        for node in reversed(region.nodes):
            result.graph.erase_node(nodes[node.name])
        nodes[region.output.name] = call  # the next region may start here
    result.delete_all_unused_submodules()
    result.graph.lint()
    result.recompile()
    return result, names


def _compose(region: Region) -> AffineConv:
    """The region as one convolution of its anchor, in float64."""
    values: dict[fx.Node, AffineConv | None] = {region.anchor: None}  # None: the anchor itself
    example = next(p for node in region.layers for p in _module(node).parameters()).detach().double()
    for node in region.nodes:
        before = [values[x] for x in (node.args if is_addition(node) else node.args[:1])]
        if is_addition(node):
            g = region.geometry
            one = AffineConv.identity(node.meta["shape"][1], g.axes, example)
            values[node] = (before[0] or one).plus(before[1] or one)
        elif is_passthrough(node):
            values[node] = before[0]
        else:
            own = affine_op(node).affine()
            values[node] = own if before[0] is None else before[0].then(own)
    return values[region.output]


def _module(node: fx.Node) -> nn.Module:
    return node.graph.owning_module.get_submodule(node.target)


def _layer(value: AffineConv, region: Region) -> tuple[nn.Module | None, nn.Module]:
    """The value as a module like those it replaces; first a module that pads, where a convolution cannot itself."""
    like = _module(region.layers[0])
    old = [p for node in region.layers for p in _module(node).parameters()]
    g, pads = value.geometry, None
    options = {"dtype": like.weight.dtype, "device": like.weight.device}
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
    memory_format = torch.preserve_format
    if g.axes == 2 and like.weight.is_contiguous(memory_format=torch.channels_last) and not like.weight.is_contiguous():
        memory_format = torch.channels_last
    with torch.no_grad():
        layer.weight.data = value.weight.to(layer.weight.dtype).contiguous(
            memory_format=torch.contiguous_format if memory_format is torch.preserve_format else memory_format
        )
        layer.bias.data = value.bias.to(layer.bias.dtype)
    return pads, layer.requires_grad_(any(p.requires_grad for p in old)).train(like.training)


def _name(region: Region) -> str:
    """`layer1.0.conv1` and `layer1.0.conv2` merge to `layer1.0.conv1_conv2`."""
    paths = [node.target.split(".") for node in region.layers]
    shared = 0
    while all(len(path) > shared + 1 and path[shared] == paths[0][shared] for path in paths):
        shared += 1
    parent = paths[0][:shared]
    return ".".join([*parent, "_".join("_".join(path[shared:]) for path in paths)])


def _check(traced: fx.GraphModule, regions: list[Region], example: Tensor) -> list[float]:
    """Relative errors in float64, the larger of real and randomised statistics: each region's, then the network's."""
    worst = [0.0] * (len(regions) + 1)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(example.shape, generator=generator, dtype=torch.float64).to(example.device)
    for randomise in (False, True):
        original = copy.deepcopy(traced).double()
        if randomise:
            _randomise_statistics(original, generator)
        nodes = {node.name: node for node in original.graph.nodes}
        for old in traced.graph.nodes:
            nodes[old.name].meta["shape"] = old.meta["shape"]
        own = [
            replace(
                region,
                anchor=nodes[region.anchor.name],
                output=nodes[region.output.name],
                nodes=tuple(nodes[node.name] for node in region.nodes),
            )
            for region in regions
        ]
        with torch.no_grad():
            expected, kept = _run(original, x, {n for r in own for n in (r.anchor.name, r.output.name)})
            for i, region in enumerate(own):
                error = _relative(_compose(region)(kept[region.anchor.name]), kept[region.output.name])
                worst[i] = max(worst[i], error)
                if not error <= TOLERANCE:
                    layers = ", ".join(node.target for node in region.layers)
                    raise CheckError(f"merging {layers} is off by {error:.1e} (relative, float64); please report this")
            del kept
            merged, _ = merge(original, own)
            error = _relative(merged(x), expected)
            worst[-1] = max(worst[-1], error)
            if not error <= TOLERANCE:
                raise CheckError(f"the folded network is off by {error:.1e} (relative, float64); please report this")
    return worst


def _run(traced: fx.GraphModule, x: Tensor, keep: set[str]) -> tuple[Tensor, dict[str, Tensor]]:
    """The output of the graph, and the values of the nodes named in ``keep``."""
    kept = {}

    class Keep(fx.Interpreter):
        def run_node(self, node: fx.Node) -> object:
            value = super().run_node(node)
            if node.name in keep:
                kept[node.name] = value
            return value

    return Keep(traced).run(x), kept


def _relative(actual: object, expected: object) -> float:
    """The largest difference over the largest value, over all tensors of a (nested) output."""
    if isinstance(expected, Tensor):
        scale = expected.abs().max().clamp_min(torch.finfo(torch.float64).tiny)
        return ((actual - expected).abs().max() / scale).item() if expected.numel() else 0.0
    pairs = zip(expected.values(), actual.values(), strict=True) if isinstance(expected, dict) else None
    return max((_relative(a, e) for e, a in pairs or zip(expected, actual, strict=True)), default=0.0)


def _randomise_statistics(model: nn.Module, generator: torch.Generator) -> None:
    """BatchNorm statistics and affine parameters away from 0 and 1, which would hide mistakes."""

    def fill(tensor: Tensor | None, low: float, high: float) -> None:
        if tensor is not None:
            tensor.data.copy_(torch.rand(tensor.shape, generator=generator, dtype=torch.float64) * (high - low) + low)

    for module in model.modules():
        if isinstance(module, BATCH_NORMS):
            for tensor, low, high in (
                (module.running_mean, -1, 1), (module.running_var, 0.5, 2), (module.weight, 0.5, 1.5), (module.bias, -1, 1),
            ):  # fmt: skip
                fill(tensor, low, high)
