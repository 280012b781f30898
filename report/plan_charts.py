"""The charts of what a plan chose from: the best plans, and what each fitted layer loses alone."""

import math

import matplotlib
from markupsafe import Markup

from layer_folding.fit_choices import shape_text
from layer_folding.importance_tables import Importance
from layer_folding.plans import Plan

from .charts import WIDTH, short
from .svg import ACCENT, INK, MUTED, STYLE, figure, inline

MOST_ROWS = 24  # of the losses


def frontier(plan: Plan) -> Markup:
    """All best plans: predicted latency to the right, importance lost upwards; above, what carried-out plans keep."""
    carried_out = [point for point in plan.frontier if point.agreement is not None]
    tried = [(point.latency_ms, point.loss) for point in plan.frontier if point.loss is not None]
    titles = {}
    with matplotlib.rc_context(STYLE):
        drawn = figure(WIDTH, 4.4 if carried_out or tried else 2.6)
        panels = drawn.subplots(2 if carried_out or tried else 1, 1, sharex=True, squeeze=False)[:, 0]
        axes = panels[-1]
        for number, point in enumerate(plan.frontier):
            gid = f"plan-{number}"
            axes.plot(point.latency_ms, point.importance_lost, "o", color=MUTED, markersize=3.5, gid=gid)
            titles[gid] = f"{point.latency_ms:.4g} ms, loses {point.importance_lost:.3g}"
        axes.plot(plan.latency_ms, plan.importance_lost, "o", color=ACCENT, markersize=7)
        axes.plot(plan.original_ms, 0, "s", color=INK, markersize=6)
        axes.annotate("original", (plan.original_ms, 0), (-8, 4), textcoords="offset points", ha="right", color=INK)
        axes.set(xlabel="predicted latency, ms", ylabel="importance lost")
        if tried:
            times, found = [time for time, _ in tried], [loss for _, loss in tried]
            bars = [loss.error for loss in found]
            panels[0].errorbar(times, [loss.value for loss in found], bars, fmt="^", color=ACCENT, markersize=5)
            panels[0].set_ylabel("measured loss")
        elif carried_out:
            shares = [100 * (point.agreement or 0.0) for point in carried_out]
            panels[0].plot([point.latency_ms for point in carried_out], shares, "^", color=ACCENT, markersize=5)
            panels[0].set_ylabel("same class, %")
        for each in panels:
            each.margins(0.08, 0.12)
            each.tick_params(length=0)
        return inline(drawn, "frontier", "the best plans, predicted latency against importance lost", titles)


def losses(importance: Importance) -> Markup:
    """A row for each set of activations, a point for each shape that was fitted in their place."""
    rows = by_activations(importance)[:MOST_ROWS]
    titles = {}
    lowest = min((loss for _, shapes in rows for loss in shapes.values() if loss > 0), default=1.0)
    with matplotlib.rc_context(STYLE):
        drawn = figure(WIDTH, 0.8 + 0.24 * len(rows))
        axes = drawn.add_subplot()
        axes.set_xscale("log")
        for row, (names, shapes) in enumerate(rows):
            best = min(shapes, key=lambda shape: shapes[shape])
            for number, (shape, loss) in enumerate(shapes.items()):
                gid = f"loss-{row}-{number}"
                color, size = (ACCENT, 6) if shape == best else (MUTED, 4)
                axes.plot(max(loss, lowest / 2), row, "o", color=color, markersize=size, gid=gid)
                titles[gid] = f"{names}, shape {shape}: {loss:.3g}"
            text = f"{best}  {shapes[best]:.2g}"
            axes.text(1.02, row, text, transform=axes.get_yaxis_transform(), va="center", fontsize=9, color=INK)
        axes.set_yticks(range(len(rows)), [short(names) for names, _ in rows], fontsize=9)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.margins(x=0.06)
        axes.xaxis.set_major_formatter("{x:g}")  # in place of powers, which only TeX can show
        axes.set_xlabel(importance.unit)
        axes.grid(visible=False, axis="y")
        axes.tick_params(length=0, which="both")
        return inline(drawn, "losses", "what each fitted layer loses alone", titles)


def by_activations(importance: Importance) -> list[tuple[str, dict[str, float]]]:
    """The finite losses of fits by activations and shape, the set that loses least first."""
    found: dict[str, dict[str, float]] = {}
    for choice, loss in importance.fits.items():
        if math.isfinite(loss):
            found.setdefault(", ".join(choice.activations), {})[shape_text(choice.shape)] = loss
    return sorted(found.items(), key=lambda row: min(row[1].values()))
