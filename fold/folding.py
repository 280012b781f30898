"""Fold a network, checked before anybody sees it; or tell what would fold."""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn

from layer_folding.errors import InputError

from .algebra.layers import BATCH_NORMS, DROPOUTS
from .graph.comparing import relative
from .graph.foreign import branch_dropouts, require_unwrapped
from .graph.nodes import random_like, target_of
from .graph.tracing import Activation, trace
from .merge.checking import compose_checked, require, require_finite
from .merge.composing import compose
from .merge.rewriting import fill, replace_regions
from .regions.exact_run import run
from .regions.finding import Region, Skipped, exact_regions, foldable_activations, hoisted_regions


@dataclass(frozen=True)
class Merge:
    """The merge of one region, made (`fold`) or possible (`scan`).

    ``layers`` and ``activations`` are module paths. The merge needs the removal of these activations. ``kernel``,
    ``stride`` and ``groups`` are those of the merged layer. ``macs`` (per image) and ``parameters`` are (before,
    after). ``name`` is the path of the merged layer. ``error`` is its measured relative error in float64 (`fold` only).
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
    """What `fold` did.

    ``model`` is the folded network. ``folded`` has an entry for each merged layer. ``skipped`` has an entry for each
    layer that stays, with the reason. ``max_error`` is the largest difference, relative to the largest output, in
    float64.
    """

    model: fx.GraphModule
    folded: list[Merge]
    skipped: list[Skipped]
    max_error: float


@dataclass(frozen=True)
class Scan:
    """What could be folded.

    ``candidates`` are the merges that would be possible without the activations that each of them names. ``skipped``
    has the layers that would stay, with the reasons.
    """

    candidates: list[Merge]
    skipped: list[Skipped]


def fold(model: nn.Module, example: Tensor, *, average_pooling: bool = False) -> FoldResult:
    """Merge every affine region of ``model`` into one layer each, exactly.

    The network computes the same function, up to rounding. A region whose merge is not exact at the borders is left
    alone, and listed in ``skipped``; `hoist_padding` makes such a merge exact, but changes the network at the borders.
    Before `fold` returns, it compares the original with the merged network in float64. It also compares each region, as
    it is and with random BatchNorm statistics. If there is nothing to fold, ``folded == []``. Beside the network and
    the result, memory is needed for the weights of one region at a time in float64, and for the values between regions.

        >>> import torch, layer_folding as lf
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 8, 3)).eval()
        >>> result = lf.fold(model, torch.rand(1, 3, 16, 16))
        >>> [(merge.layers, merge.kernel) for merge in result.folded]
        [(('0', '1'), (5, 5))]

    Args:
        model: a network in eval mode whose unwanted activations are removed; it is not modified.
        example: one input batch `[batch, in, *spatial]`; only its shape, dtype and device matter.
        average_pooling: merge average poolings too, as the convolutions that they are.

    Raises:
        InputError: the network or one of its BatchNorms or Dropouts is in training mode, the network cannot be
            traced, it does not accept ``example``, or a layer does not run in float64.
        CheckError: a merged layer differs from what it replaces by more than 1e-9 (relative, float64), or the output
            is not finite.
    """
    require_unwrapped(model)
    for name, module in model.named_modules():
        if module.training and (module is model or isinstance(module, (*BATCH_NORMS, *DROPOUTS, *branch_dropouts()))):
            what = f"layer {name}" if name else "the network"
            raise InputError(f"{what} is in training mode, where it is not a fixed map; call .eval() first")
    traced = trace(model, example, average_pooling=average_pooling, share_weights=True)
    regions = exact_regions(traced)
    x = random_like(example.double())
    merged, layers = replace_regions(traced, regions.found)
    errors: dict[str, float] = {}
    exact: dict[str, dict[str, Tensor]] = {}

    def weights(path: str) -> dict[str, Tensor] | None:
        """The merged layer's weights in float64, made when the run comes to it: one layer's at a time are in memory."""
        if path in layers:
            exact.clear()
            region = layers[path].region
            value, errors[path] = compose_checked(region, compose, anchors[region.anchor])
            exact.update(layers[path].weights(value))
            fill(merged, exact)
        return exact.get(path)

    with torch.no_grad():
        output, anchors = run(traced, x, {region.anchor for region in regions.found})
        require_finite(output, type(model).__name__)
        require_finite(traced(x.to(example.dtype)), f"{type(model).__name__} in {example.dtype}")
        whole = relative(run(merged, x, weights=weights)[0], output)
    require(whole, "the folded network")
    folded = [replace(describe_region(layer.region), name=name, error=errors[name]) for name, layer in layers.items()]
    # what is not new still belongs to ``model``
    theirs = {id(tensor) for tensor in model.parameters()}
    new = {id(tensor): tensor for tensor in merged.parameters() if id(tensor) not in theirs}
    return FoldResult(copy.deepcopy(merged, new), folded, regions.skipped, max([whole, *errors.values()]))


def scan(
    model: nn.Module, example: Tensor, *, activations: Collection[Activation] = (), average_pooling: bool = False
) -> Scan:
    """A dry run: the regions that would merge if all activations between their layers were removed, and no others.

    Padding counts as hoisted. Only the multiply-accumulates before merging are those of ``model`` as it is.

    Args:
        model: a network in any mode, with its activations in place; it is not modified.
        example: one input batch `[batch, in, *spatial]`; only its shape, dtype and device matter.
        activations: functions and module classes to be taken for activations too, see `fold.graph.tracing.trace`.
        average_pooling: take average poolings for convolutions.

    Raises:
        InputError: the network cannot be traced, or does not accept ``example``.

    Example:
        >>> import torch, layer_folding as lf
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3))
        >>> [merge.activations for merge in lf.scan(model, torch.rand(1, 3, 16, 16)).candidates]
        [('1',)]
    """
    traced = trace(model, example, activations=activations, average_pooling=average_pooling, share_weights=True)
    regions = hoisted_regions(traced, foldable_activations(traced))
    return Scan([describe_region(region) for region in regions.found], regions.skipped)


def describe_region(region: Region) -> Merge:
    return Merge(
        layers=tuple(target_of(node) for node in region.layers),
        activations=tuple(target_of(node) for node in region.removed),
        kernel=region.geometry.kernel,
        stride=region.geometry.stride,
        groups=region.geometry.groups,
        macs=region.macs,
        parameters=region.parameters,
    )
