"""Plan what to fold, by measured latency: `lf.plan`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor, nn

from layer_folding.command_line import labelled
from layer_folding.errors import CheckError, InputError
from layer_folding.fit_choices import NONE, shape_text
from layer_folding.importance_tables import Importance
from layer_folding.latency_tables import Table, TimedSegment
from layer_folding.plans import Loss, LossBound, Plan, PlannedMerge, PlanPoint

from .fitting.network_fit import fit
from .plan.bounded import fastest_within
from .plan.candidates import candidates, merges_of
from .plan.dynamic_program import Frontier, Gain, frontier
from .plan.measured_loss import loss_of
from .plan.offers import Offer, offers, require_rows, weighed
from .plan.one_shot import carried_out, spread
from .regions.costs import MAX_GROWTH


def plan(
    model: nn.Module,
    example: Tensor,
    table: Table,
    *,
    speedup: float | None = None,
    budget_ms: float | None = None,
    max_loss: float | None = None,
    importance: Importance | None = None,
    max_growth: float = MAX_GROWTH,
    images: Tensor | None = None,
    held_out: Tensor | tuple[Tensor, Tensor] | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Plan:
    """Choose what to fold in ``model`` on the device that ``table`` was measured on.

        >>> import torch, layer_folding as lf
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 1))
        >>> example = torch.rand(1, 3, 16, 16)
        >>> plan = lf.plan(model, example, lf.read_table("run/latency.csv"))
        >>> plan.speedup >= 1  # .removed, .latency_ms and .merges say how
        True

    Without a limit the plan is the fastest network. What the table does not show to be faster than the layers apart is
    left out, so that folding never makes the network slower. Under a limit the plan loses least importance.

    Layers become one by an exact merge, or by a fit (`lf.fit`) whose layer is smaller. ``.removed`` are the activations
    to remove for merges, ``.fits`` what to fit.

    Args:
        model: the trained network with its activations in place; it is not modified.
        example: one input batch `[batch, in, *spatial]`; only its shape matters.
        table: the latency table of this network, from `lf.table` or `lf.read_table`.
        speedup: the planned network is to be at least this many times as fast as the original.
        budget_ms: the planned network is to take at most this long, in ms.
        max_loss: the planned network is to lose at most this much, as measured on ``held_out``: the fastest such plan.
            Some ten plans are fitted to ``images`` for it, as `lf.fit` does with tuning. Give one of the three limits,
            or none.
        importance: what each merge and each fit loses, from `lf.importance` or `lf.read_importance`; what it does not
            know is not planned. Without it each activation counts 1, and no layer is fitted with a kernel smaller than
            one of those that it replaces.
        max_growth: a merge or fit to more than this many times the multiply-accumulates is not in question.
        images: `[N, C, *spatial]`, unlabelled, normalised. With these the plan and some faster and slower ones are
            carried out by least squares. Their points of ``.frontier`` then say how far the outputs are off; ``.notes``
            say which plans cannot be carried out, and why.
        held_out: for ``max_loss``: other images like ``images``, with their labels `[N]`; the loss is in points of
            accuracy, hundredths of these images. Or images alone: it is the mean of KL(original || fitted), in nats.
            For outputs that are no scores of classes, as of a detector, it is their squared error over their variance.
        progress: called with a phrase that says what is being done.

    Raises:
        InputError: the network cannot be traced, or does not accept ``example``; ``table`` or ``importance`` is not
            that of this network; several limits are given, or one that is not above 0; ``max_loss`` has no images.
        CheckError: no plan is that fast; the message names the fastest.
    """
    _check_limits(speedup, budget_ms, max_loss)
    best = _best_plans(model, example, table, importance, max_growth)
    budget = best.whole.time / speedup if speedup else budget_ms
    number = _within(best.frontier, budget, best.whole.time)
    points = zip(best.frontier.times, best.frontier.loses, strict=True)
    planned = Plan(
        conditions=table.conditions,
        original_ms=best.whole.time,
        original_error_ms=best.whole.error,
        activations=best.activations,
        merges=best.merges(number),
        importance="activations" if importance is None else importance.unit,
        budget_ms=budget,
        frontier=tuple(PlanPoint(float(ms), float(lost)) for ms, lost in points),
    )
    if max_loss is not None:
        if images is None or held_out is None:
            raise InputError(f"max_loss {max_loss}: is measured; give images to fit to, and held_out")
        planned = _bounded(model, images, held_out, planned, max_loss, best, progress)
    elif images is not None:
        planned = _measured(model, images, planned, number, best, progress)
    return replace(planned, notes=(*_notes(model, example, planned), *planned.notes))


def _bounded(
    model: nn.Module,
    images: Tensor,
    held_out: Tensor | tuple[Tensor, Tensor],
    planned: Plan,
    most: float,
    best: _BestPlans,
    progress: Callable[[str], None],
) -> Plan:
    """The fastest plan of the frontier of ``planned`` that loses at most ``most`` when it is carried out."""
    shown, labels = held_out if isinstance(held_out, tuple) else (held_out, None)
    loss = loss_of(model, shown, labels)
    points, failures = list(planned.frontier), []

    def is_within(number: int) -> bool:
        point = points[number]
        show = labelled(progress, f"plan of {point.latency_ms:.4g} ms")
        try:
            found = loss.of(fit(model, images, replace(planned, merges=best.merges(number)), progress=show).model)
        except (InputError, CheckError) as error:
            failures.append(_failure(point, error))
            return False
        points[number] = replace(point, loss=found)
        return found.value <= most

    number = fastest_within([point.latency_ms for point in points], is_within)
    progress("")
    found = points[number].loss or Loss(0.0, 0.0)  # the original network
    bound = LossBound(most, loss.unit, found, len(shown), len(images))
    merges = best.merges(number)
    return replace(planned, merges=merges, frontier=tuple(points), notes=tuple(failures), max_loss=bound)


def _failure(point: PlanPoint, error: Exception) -> str:
    return f"the plan of {point.latency_ms:.4g} ms cannot be carried out by fits: {error}"


def _measured(
    model: nn.Module, images: Tensor, planned: Plan, number: int, best: _BestPlans, progress: Callable[[str], None]
) -> Plan:
    """``planned``, which has this ``number`` in the frontier, with some points of the frontier carried out."""
    points, failures = list(planned.frontier), []
    chosen = spread([point.latency_ms for point in points], number)
    for done, index in enumerate(chosen, start=1):
        show = labelled(progress, f"plan {done} of {len(chosen)}")
        try:
            points[index] = carried_out(model, images, replace(planned, merges=best.merges(index)), points[index], show)
        except (InputError, CheckError) as error:
            failures.append(_failure(points[index], error))
    progress("")
    return replace(planned, frontier=tuple(points), notes=tuple(failures))


@dataclass(frozen=True)
class _BestPlans:
    """The ``frontier`` of all best plans by what is ``offered``, for a network that takes the time ``whole``."""

    frontier: Frontier
    offered: list[Offer]
    whole: TimedSegment
    activations: int

    def merges(self, number: int) -> tuple[PlannedMerge, ...]:
        """Of the plan with that number in the frontier."""
        return tuple(_planned(self.offered[index]) for index in self.frontier.chosen(number))


def _best_plans(
    model: nn.Module, example: Tensor, table: Table, importance: Importance | None, max_growth: float
) -> _BestPlans:
    found = candidates(model, example, max_growth)
    if importance is not None:
        require_rows(found.found, importance)
    whole = table.timing(found.whole, found.input_shape)
    offered = weighed(offers(found.found, table), importance)
    best = frontier(whole.time, [Gain(offer.candidate.occupies, offer.saves, offer.loses) for offer in offered])
    if not best.times[0] > 0:
        raise InputError(
            f"{table.source}: merges save {whole.time - best.times[0]:.4g} ms of the {whole.time:.4g} ms that the "
            "network takes; measure again, on a quiet machine"
        )
    return _BestPlans(best, offered, whole, found.activations)


def _check_limits(speedup: float | None, budget_ms: float | None, max_loss: float | None) -> None:
    limits = {"speedup": speedup, "budget_ms": budget_ms, "max_loss": max_loss}
    given = {name: limit for name, limit in limits.items() if limit is not None}
    if len(given) > 1:
        said = ", ".join(f"{name} {limit}" for name, limit in given.items())
        raise InputError(f"{said}: are limits of one plan; give one")
    for name, limit in given.items():
        if not (0 < limit < math.inf or (name == "max_loss" and limit == 0)):
            raise InputError(f"{name} {limit}: is not a number above 0; give such a number, or leave it out")


def _within(best: Frontier, budget: float | None, original: float) -> int:
    """The number of the plan that loses least within ``budget`` (ms); of the fastest without one."""
    if budget is None:
        return 0
    number = best.under(budget)
    if number is None:
        fastest = math.ceil(best.times[0] * 1e4) / 1e4  # so that it is a budget that can be met
        raise CheckError(
            f"no plan takes {budget:.4f} ms or less: the fastest takes {fastest:.4f} ms, "
            f"{original / best.times[0]:.3f}x; give a budget of {fastest:.4f} ms or more"
        )
    return number


def _planned(offer: Offer) -> PlannedMerge:
    alternative = offer.alternative
    return PlannedMerge(
        layers=offer.candidate.merge.layers,
        activations=alternative.changes,
        kernel=alternative.kernel,
        macs=alternative.macs,
        apart=offer.candidate.apart,
        merged=alternative.segment,
        apart_ms=offer.apart.time,
        merged_ms=offer.merged.time,
        error_ms=offer.error,
        importance_lost=offer.loses,
        shape=None if alternative.shape is None else shape_text(alternative.shape),
    )


def _notes(model: nn.Module, example: Tensor, planned: Plan) -> tuple[str, ...]:
    """Where the network would merge other layers than the plan counts on."""
    expected = {merge.layers for merge in planned.merges if merge.shape != NONE}
    would = merges_of(model, example, planned.removed, planned.fits)
    missing = [f"{' + '.join(layers)} are planned to merge, and will not" for layers in sorted(expected - would)]
    surplus = [f"{' + '.join(layers)} will merge, unplanned" for layers in sorted(would - expected)]
    return tuple(f"{note}; the prediction is off by that" for note in (*missing, *surplus))
