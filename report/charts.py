"""The charts of a run: accuracy by step, gates by epoch, latency samples."""

from collections.abc import Collection, Sequence
from typing import TypeVar

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from layer_folding.bench_results import ModelRecord
from layer_folding.epoch_records import Epoch
from layer_folding.stages import STEPS
from layer_folding.text import milliseconds

from .svg import ACCENT, INK, MUTED, RULE, STYLE, figure, inline

T = TypeVar("T")
WIDTH = 5.2  # inches; on a phone, letters are then as large as drawn
MOST_CELLS = 1500  # of the gates' chart; above that, only some of the epochs are drawn
MOST_POINTS = 400  # of a distribution


def accuracies(steps: dict[str, float]) -> Markup:
    """Accuracy (fractions) at each step of the way, and how far each is from the first."""
    names = [step for step in STEPS if step in steps]
    values = [100 * steps[step] for step in names]
    with matplotlib.rc_context(STYLE):
        drawn = figure(WIDTH, 2.5)
        axes = drawn.add_subplot()
        axes.axhline(values[0], color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.plot(names, values, color=ACCENT, linewidth=1.6, marker="o", markersize=5)
        room = _room(values)
        for place, value in enumerate(values):
            around = np.mean(values[max(place - 1, 0) : place + 2])
            below = value < around or 0 < values[0] - value < room  # where the line or the dashed line is above
            axes.annotate(
                f"{value:.2f}", (place, value), (0, -7 if below else 7), textcoords="offset points",
                ha="center", va="top" if below else "bottom", color=INK,
            )  # fmt: skip
        axes.set_ylabel("accuracy, %")
        _fit(axes, values)
        axes.margins(x=0.06)
        axes.grid(visible=False, axis="x")
        axes.tick_params(length=0)
        return inline(drawn, "accuracies", "accuracy in % after each step")


def gates(epochs: list[Epoch], threshold: float, kept: Collection[str] = ()) -> Markup:
    """How far each gate was open after each epoch that is `shown`, 0 to 1, above accuracy with the same epochs.

    ``kept`` are open gates whose activation stays.
    """
    names = list(dict.fromkeys(name for epoch in epochs for name in epoch.gates))
    columns = shown(epochs)
    titles = {}
    with matplotlib.rc_context(STYLE):
        drawn = figure(WIDTH, 1.0 + 0.21 * len(names) + 1.4)
        cells, line = drawn.subplots(2, 1, height_ratios=[0.5 + 0.21 * len(names), 1.4])
        for column, epoch in enumerate(columns):
            for row, name in enumerate(names):
                alpha = epoch.gates.get(name, 0.0)
                gid = f"gate-{row}-{column}"
                strength = min(max(alpha, 0.0), 1.0)
                cells.barh(row, 0.94, 0.86, left=column - 0.47, color=ACCENT, alpha=0.06 + 0.94 * strength, gid=gid)
                titles[gid] = f"{name}, epoch {epoch.epoch}: {alpha:.3f}"
        for row, name in enumerate(names):
            last = columns[-1].gates.get(name, 0.0)
            color = INK if last >= threshold else MUTED
            text = f"{last:.2f}{'  stays' if name in kept else '  open' if last >= threshold else ''}"
            cells.text(len(columns) - 0.4, row, text, va="center", fontsize=9, color=color)
        cells.set_yticks(range(len(names)), [short(name) for name in names], fontsize=9)
        cells.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(names) - 0.5, -0.5))
        cells.set_xticks([])
        cells.grid(visible=False)
        cells.spines[:].set_visible(False)
        line.plot([100 * epoch.accuracy for epoch in columns], color=ACCENT, marker="o", markersize=4, linewidth=1.4)
        line.set(xlim=(-0.5, len(columns) - 0.5), xlabel="epoch", ylabel="accuracy, %")
        _fit(line, [100 * epoch.accuracy for epoch in columns])
        few = _some(list(enumerate(columns)), 12)
        line.set_xticks([place for place, _ in few], [str(epoch.epoch) for _, epoch in few])
        for axes in (cells, line):
            axes.tick_params(length=0)
        return inline(drawn, "gates", "how far each gate was open after each epoch", titles)


def _room(values: Sequence[float]) -> float:
    """What is left free above and below ``values``, in points: with less, noise would look like a fall."""
    return 0.3 * max(max(values) - min(values), 0.5)


def _fit(axes: Axes, values: Sequence[float]) -> None:
    """Let the axis of accuracy (%) show ``values`` and what is around them, and no tick above 100."""
    low, high = min(values) - _room(values), max(values) + _room(values)
    axes.set_ylim(low, high)
    axes.set_yticks([tick for tick in axes.get_yticks() if low <= tick <= min(high, 100)])


def shown(epochs: list[Epoch]) -> list[Epoch]:
    """Those of ``epochs`` that the gates' chart has columns for: all, unless that makes too many cells."""
    return _some(epochs, max(2, MOST_CELLS // len(epochs[0].gates)))


def latencies(models: list[ModelRecord]) -> Markup:
    """The share of each network's samples that is below a latency; the bands are 95 % intervals of the medians.

    ``models`` are of one batch size.
    """
    titles = {}
    with matplotlib.rc_context(STYLE):
        drawn = figure(WIDTH, 2.8)
        axes = drawn.add_subplot()
        for number, model in enumerate(models):
            samples = np.sort(np.asarray(model.samples_ms, dtype=float))
            share = np.linspace(0, 1, min(len(samples), MOST_POINTS))
            color, gid = INK if number == 0 else ACCENT, f"samples-{number}"
            dash = "solid" if number < 2 else (0, (5 - number % 4, 2))
            axes.plot(np.quantile(samples, share), 100 * share, color=color, linewidth=1.6, linestyle=dash, gid=gid)
            median, interval = model.latency_ms.median, model.latency_ms.ci95
            low, high = map(milliseconds, interval)
            axes.axvspan(*interval, color=color, alpha=0.18, linewidth=0)
            titles[gid] = f"{model.name}: median {milliseconds(median)} ms [{low}, {high}]"
            height = 90 - 80 * (number + 1) / (len(models) + 1)
            label, place = f"{model.name} {milliseconds(median)}", (np.quantile(samples, height / 100), height)
            axes.annotate(label, place, (8, 0), textcoords="offset points", va="center", color=color)
        every = np.concatenate([model.samples_ms for model in models])
        fastest, slow = every.min(), np.quantile(every, 0.995)  # the few above would take all the room
        room = slow - fastest or fastest
        axes.set_xlim(fastest - 0.05 * room, slow + 0.14 * room)
        axes.set(xlabel="latency, ms", ylabel="samples below, %", ylim=(0, 102))
        axes.tick_params(length=0)
        return inline(drawn, f"latencies-{models[0].batch}", "latency distribution of each network", titles)


def modules(rows: list[tuple[str, float, float]]) -> Markup:
    """Time of each merge (label, ms before, ms after), with the profiler on."""
    with matplotlib.rc_context(STYLE):
        drawn = figure(WIDTH, 0.9 + 0.42 * len(rows))
        axes = drawn.add_subplot()
        places = np.arange(len(rows))
        axes.barh(places - 0.19, [before for _, before, _ in rows], 0.34, color=INK, alpha=0.55)
        axes.barh(places + 0.19, [after for _, _, after in rows], 0.34, color=ACCENT)
        axes.set_yticks(places, [short(label) for label, _, _ in rows], fontsize=9)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel("ms, with the profiler on; accent: folded")
        axes.grid(visible=False, axis="y")
        axes.tick_params(length=0)
        axes.spines["left"].set_color(RULE)
        return inline(drawn, "modules", "time of each merge before and after")


def _some(items: list[T], most: int) -> list[T]:
    """At most ``most`` of ``items``, evenly, the first and the last among them."""
    if len(items) <= most:
        return items
    return [items[round(place)] for place in np.linspace(0, len(items) - 1, most)]


def short(name: str, most: int = 34) -> str:
    """``name`` with its middle left out where it is longer than ``most`` characters."""
    return name if len(name) <= most else f"{name[: most - 15]}…{name[-14:]}"
