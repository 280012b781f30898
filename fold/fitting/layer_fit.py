"""The least-squares fit of one layer: target from the original network, input from the network as changed so far.

Where a ReLU reads the output, how negative a negative output is does not matter. So the fit goes on for a few rounds
with half of the squared error taken behind the ReLU. Each round minimises a bound of that error that touches it at the
last fit (a target that is negative moves half of the way to where the fit is negative, too), so the error only falls.
Zhang et al. (2015, "Accelerating very deep convolutional networks", section 2.2) take all of it behind the ReLU; then
too few positions count, and deep networks lose more than they gain.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, fx, nn

from layer_folding.errors import InputError

from ..algebra.affine_conv import AffineConv
from ..algebra.geometry import Geometry
from ..graph.nodes import evaluate, module_of
from .activation_maps import ActivationMoments
from .moments import Moments, Positions, extents_of, rows, unknowns
from .parts import Part, axes_in
from .placing import FittedWeights
from .ridge import output_statistics, solve
from .sides import Sides

RIDGE = 1e-3  # of the mean variance of an input
PER_UNKNOWN = 100  # positions for each unknown of an output; more are not sampled
ROUNDS = 2

# Products of the inputs of a layer, by what they depend on: the anchor, what stands before the layer, and its geometry.
Grams = dict[tuple[fx.Node, tuple[fx.Node, ...], Geometry], Tensor]


def fit_layer(sides: Sides, part: Part, flat: tuple[float, float], grams: Grams | None = None) -> FittedWeights:
    """The layer for ``part`` with the least error; runs both networks up to it.

    Args:
        sides: both networks, not beyond the anchor of ``part``.
        part: what is fitted.
        flat: what reads the output is constant below and above these (`flat_beyond`).
        grams: products of inputs from earlier fits, with the same values at their anchors; this fit's come to them.

    Raises:
        InputError: a value is not finite.
    """
    maps = _activation_maps(sides, part)
    sides.changed.hold(sides.nodes[part.region.anchor])
    for term in part.exact:
        sides.changed.to(sides.nodes[term])
    geometry, prior = _start(part, maps)
    moments = Moments(geometry, prior.weight.device)
    grams = {} if grams is None or part.crop is None else grams  # with the shape "none" the input is another
    inputs = (part.region.anchor, part.region.before, replace(geometry, out_channels=geometry.groups))
    add = moments.add_targets if inputs in grams else moments.add
    moments.gram = grams.get(inputs, moments.gram)
    for seen, target, skip in _samples(sides, part, geometry):
        add(seen, target - skip)
    grams[inputs] = moments.gram  # whole
    if not (moments.gram.isfinite().all() and moments.cross.isfinite().all()):
        raise InputError(
            f"{part.choice.names}: the network gives values there that are not finite on these images; check "
            "the images, and how they are normalised"
        )
    value = solve(moments, prior, RIDGE)
    low, high = flat
    for _ in range(0 if (low, high) == (-math.inf, math.inf) else ROUNDS):
        moments.cross.zero_()
        for seen, target, skip in _samples(sides, part, geometry):
            now = _apply(value, seen) + skip
            target = torch.where(target < low, (target + now.clamp(max=low)) / 2, target)
            target = torch.where(target > high, (target + now.clamp(min=high)) / 2, target)
            moments.add_targets(seen, target - skip)
        value = solve(moments, prior, RIDGE)
    read = value if part.crop else prior  # what the BatchNorm reads: with the shape "none" that is the input
    return FittedWeights(value.weight, value.bias, *output_statistics(moments, read))


def flat_beyond(part: Part, removed: set[fx.Node]) -> tuple[float, float]:
    """Below and above which value of the output its only reader, an activation that stays, is constant."""
    readers = list(part.region.output.users)
    module = module_of(readers[0]) if len(readers) == 1 and readers[0] not in removed else None
    if isinstance(module, nn.ReLU):
        return 0.0, math.inf
    return (0.0, 6.0) if isinstance(module, nn.ReLU6) else (-math.inf, math.inf)


def _activation_maps(sides: Sides, part: Part) -> dict[fx.Node, AffineConv]:
    """The affine map for each activation that goes; runs the original network up to the output."""
    axes = axes_in(part.region)
    activations = {node: ActivationMoments(axes[node]) for node in part.region.removed}
    keep = {x for node in activations for x in (node, *node.all_input_nodes)}
    for i, values in enumerate(sides.original.until(part.region.output, keep)):
        for node, moments in activations.items() if i < sides.fitted else ():
            moments.add(values[node.all_input_nodes[0]], values[node])
    return {node: moments.best_map() for node, moments in activations.items()}


def _start(part: Part, maps: Mapping[fx.Node, AffineConv]) -> tuple[Geometry, AffineConv]:
    """The geometry of what is fitted, and its prior: with the shape "none" the identity."""
    like = next(iter(maps.values())).bias
    if part.crop is None:
        one = AffineConv.identity(part.merged.out_channels, part.merged.axes, like)
        return one.geometry, one
    return part.crop.geometry, part.prior(maps)


def _samples(sides: Sides, part: Part, geometry: Geometry) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Sampled positions, batch by batch: what they see, the target, and what the exact values add to the output.

    The same positions each time.
    """
    per_batch = math.ceil(PER_UNKNOWN * unknowns(geometry) / sides.fitted)
    for i in range(sides.fitted):
        changed, target = sides.changed.batches[i], sides.original.batches[i][part.region.output]
        at = Positions.sampled(extents_of(target, geometry.axes), per_batch, seed=i)
        exact = sum((changed[sides.nodes[term]] for term in part.exact), torch.zeros_like(target))
        x = changed[sides.nodes[part.region.anchor]]
        for node in part.region.before:
            x = evaluate(node, {node.all_input_nodes[0]: x})
        if part.crop is None and part.exact:
            x, exact = exact, torch.zeros_like(target)
        yield rows(x, geometry, at), at.of(target, geometry.axes), at.of(exact, geometry.axes)


def _apply(value: AffineConv, seen: Tensor) -> Tensor:
    """What ``value`` gives, `[positions, out]`, where it sees ``seen``."""
    weight = value.weight.flatten(1).unflatten(0, (value.geometry.groups, -1))
    return (seen @ weight.transpose(1, 2)).transpose(0, 1).flatten(1) + value.bias
