"""A plan in files and for people: as text, and as a picture of all best plans."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from layer_folding.files import atomic_path, write_text
from layer_folding.fit_choices import DEPTHWISE, NONE
from layer_folding.plans import LossBound, Plan, PlannedMerge, PlanPoint, write_plan

from ..graph.changes import is_addition
from ..reporting import common_scope, listed, quantity, table


def write(folder: Path, plan: Plan) -> None:
    """Write plan.json, plan.txt and plan.png into ``folder``."""
    write_plan(folder / "plan.json", plan)
    write_text(folder / "plan.txt", "".join(f"{line}\n" for line in plan.lines))
    draw(folder / "plan.png", plan)


def as_text(plan: Plan) -> str:
    """A row for each merge, then the network before and after."""
    rows = [["in", "layers", "become", "MACs", "ms apart => merged", "saves ms", "loses"]]
    rows += [_row(merge) for merge in plan.merges]
    changes = [change for merge in plan.merges for change in merge.activations]
    left = plan.activations - sum(-1 if is_addition(change) else 1 for change in changes)
    after = [
        ["network", "activations", "predicted ms", "speed-up"],
        ["original", str(plan.activations), f"{plan.original_ms:.4f} +- {plan.original_error_ms:.4f}", "-"],
        ["planned", str(left), f"{plan.latency_ms:.4f} +- {plan.error_ms:.4f}", f"{plan.speedup:.3f}x"],
    ]
    merges = table(rows) if plan.merges else "nothing to fold"
    measured = _tried(plan) or _carried_out(plan)
    limited = plan.budget_ms is not None or plan.max_loss is not None
    without = "\nthis is the fastest network, whatever it loses; --speedup, --budget-ms or --max-loss limits the plan"
    return (
        f"{merges}\n\n{table(after)}\n\n{plan.conditions}; importance lost {plan.importance_lost:.4g} "
        f"({plan.importance}){'' if limited or not plan.merges else without}"
        f"{measured and chr(10) * 2 + measured}"
    )


def _carried_out(plan: Plan) -> str:
    """A row for each of the best plans that was carried out by fits; nothing where none was."""
    rows = [["plan", "predicted ms", "speed-up", "importance lost", "divergence", "same class"]]
    for point in plan.frontier:
        if point.divergence is not None:
            rows.append(
                [
                    "chosen" if math.isclose(point.latency_ms, plan.latency_ms) else "",
                    f"{point.latency_ms:.4f}",
                    f"{plan.original_ms / point.latency_ms:.3f}x",
                    f"{point.importance_lost:.3g}",
                    f"{point.divergence:.3g}",
                    "-" if point.agreement is None else f"{100 * point.agreement:.1f} %",
                ]
            )
    return f"carried out by least squares, without tuning:\n{table(rows)}" if len(rows) > 1 else ""


def _tried(plan: Plan) -> str:
    """A row for each of the plans that were tried under a bound of the measured loss; nothing without a bound."""
    bound = plan.max_loss
    if bound is None:
        return ""
    rows = [["plan", "predicted ms", "speed-up", "importance lost", f"loses, in {bound.unit}"]]
    for point in plan.frontier:
        if point.loss is not None:
            rows.append(
                [
                    "chosen" if math.isclose(point.latency_ms, plan.latency_ms) else "",
                    f"{point.latency_ms:.4f}",
                    f"{plan.original_ms / point.latency_ms:.3f}x",
                    f"{point.importance_lost:.3g}",
                    f"{point.loss.value:.3g} +- {point.loss.error:.2g}",
                ]
            )
    tried = f"{table(rows)}\n" if len(rows) > 1 else ""
    return (
        f"tried: fitted to {bound.fitted_images} images and measured on {bound.images} others\n{tried}"
        f"the plan is the fastest that was tried and loses at most {bound.most:g} {bound.unit}"
    )


def _row(merge: PlannedMerge) -> list[str]:
    scope = common_scope([*merge.layers, *(name for name in merge.activations if not is_addition(name))])
    added = any(map(is_addition, merge.activations))
    return [
        scope.rstrip("."),
        listed(merge.layers, scope, " + ") + (" + activation" if added else ""),
        _layer(merge),
        " => ".join(map(quantity, merge.macs)),
        f"{merge.apart_ms:.4f} => {merge.merged_ms:.4f}",
        f"{merge.saves_ms:.4f} +- {merge.error_ms:.4f}",
        f"{merge.importance_lost:.3g}",
    ]


def _layer(merge: PlannedMerge) -> str:
    """What comes to stand there."""
    if merge.shape == NONE:
        return "none, fitted"
    kernel = "x".join(map(str, merge.kernel)) or "linear"
    kind = f"{kernel} {DEPTHWISE}" if merge.shape == DEPTHWISE else kernel
    return kind if merge.shape is None else f"{kind}, fitted"


def _counts(plan: Plan) -> str:
    return f"{len(plan.merges) - len(plan.fits)} merged, {len(plan.fits)} fitted"


def draw(path: Path, plan: Plan) -> None:
    """Draw all best plans, latency against importance lost, with the chosen one.

    Above, where plans were carried out by fits: the share of images that they give the original's class, or under a
    bound what they lose.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    carried_out = [point for point in plan.frontier if point.agreement is not None or point.loss is not None]
    figure = Figure(figsize=(6.4, 6 if carried_out else 4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2 if carried_out else 1, 1, sharex=True, squeeze=False)[:, 0]
    axes = panels[-1]
    times = [point.latency_ms for point in plan.frontier]
    lost = [point.importance_lost for point in plan.frontier]
    axes.step(times, lost, where="post", marker="." if len(times) < 100 else None)
    axes.plot(plan.original_ms, 0, "ks", label=f"original, {plan.original_ms:.3g} ms")
    planned = f"planned, {plan.latency_ms:.3g} ms: {_counts(plan)}"
    axes.plot(plan.latency_ms, plan.importance_lost, "o", color="tab:red", label=planned)
    low, high = plan.latency_ms - plan.error_ms, plan.latency_ms + plan.error_ms
    axes.hlines(plan.importance_lost, low, high, color="tab:red")
    if plan.budget_ms is not None:
        for each in panels:
            label = f"budget, {plan.budget_ms:.3g} ms" if each is axes else None
            each.axvline(plan.budget_ms, color="tab:gray", linestyle="--", label=label)
    axes.set_xlabel("predicted latency (ms)")
    axes.set_ylabel("importance lost")
    axes.set_title(f"importance in {plan.importance}", fontsize=9, loc="left")
    axes.legend()
    if plan.max_loss is not None and carried_out:
        _draw_losses(panels[0], carried_out, plan.max_loss)
    elif carried_out:
        shares = [100 * (point.agreement or 0.0) for point in carried_out]
        panels[0].plot([point.latency_ms for point in carried_out], shares, "^", color="tab:green")
        panels[0].set_ylabel("same class (%)")
        panels[0].set_title("carried out by least squares, without tuning", fontsize=9, loc="left")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _draw_losses(axes: Any, tried: list[PlanPoint], bound: LossBound) -> None:
    """What the plans lose that were ``tried``, with the bound."""
    points = [(point.latency_ms, point.loss.value, point.loss.error) for point in tried if point.loss is not None]
    times, values, errors = zip(*points, strict=True)
    axes.errorbar(times, values, errors, fmt="^", capsize=2, color="tab:green")
    axes.axhline(bound.most, color="tab:gray", linestyle="--", label=f"at most {bound.most:g}")
    axes.set_ylabel("measured loss")
    axes.set_title(f"in {bound.unit}, on {bound.images} images", fontsize=9, loc="left")
    axes.legend()
