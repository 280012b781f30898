"""The index of several runs: accuracy, latency and depth of each, and which are beaten by none of the others.

Only what was measured alike is compared: the same data, runtime, device, batch and precision.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from layer_folding.bench_results import TITLES, BenchResult
from layer_folding.stages import PRETRAIN
from layer_folding.stats import Comparison, Latency
from layer_folding.text import milliseconds

from .page import clipped, templates
from .run_folder import Run
from .svg import ACCENT, INK, MUTED, STYLE, figure, inline

DOT = 5  # half a dot, in the points of the figure
SIDES = [
    ((across, 8 * up), side, {-1: "top", 0: "center", 1: "bottom"}[up])
    for up in (-1, 1, 0)
    for across, side in ([(0, "center"), (-4, "left"), (4, "right")] if up else [(9, "left"), (-9, "right")])
]  # of a dot, where its label may stand: the offset in points, and how the text is aligned to it


@dataclass(frozen=True)
class Point:
    """A network of a run that was measured. ``accuracy`` is a fraction; ``where`` what latencies have to share."""

    run: str
    network: str
    where: str  # what has to be alike for a comparison: data, runtime, device, batch, precision
    depth: int | None
    accuracy: float | None
    latency: Latency
    comparison: Comparison | None  # with the original; None for that itself
    page: str

    @property
    def percent(self) -> float:
        """The accuracy in %, NaN where it is not known."""
        return math.nan if self.accuracy is None else 100 * self.accuracy

    @property
    def title(self) -> str:
        """What shows while the pointer is on it."""
        accuracy = "no accuracy" if self.accuracy is None else f"{100 * self.accuracy:.2f} %"
        median, (low, high) = self.latency.median, self.latency.ci95
        times = f"{milliseconds(median)} ms [{milliseconds(low)}, {milliseconds(high)}]"
        return f"{self.run}, {self.network}: {accuracy}, {times}, depth {'?' if self.depth is None else self.depth}"


def render(runs: list[Run], folder: Path) -> str:
    """The HTML of the index that will lie in ``folder``; its links lead to the pages of ``runs``."""
    points = [point for run in runs for point in _points(run, folder)]
    groups = []
    for where in dict.fromkeys(point.where for point in points):
        here = [point for point in points if point.where == where]
        groups.append({"where": where, "points": here, "best": best(here), "chart": _chart(here, f"frontier-{where}")})
    waiting = [run for run in runs if not run.bench]
    pages = {run.folder: _link(run, folder) for run in runs}
    return templates().get_template("frontier.html").render(groups=groups, waiting=waiting, runs=runs, pages=pages)


def best(points: list[Point]) -> list[Point]:
    """Those that no other point beats in accuracy, latency and depth at once (equal in all but one is beaten too)."""

    def beats(one: Point, other: Point) -> bool:
        ours, theirs = _goodness(one), _goodness(other)
        return ours != theirs and all(mine >= yours for mine, yours in zip(ours, theirs, strict=True))

    known = [point for point in points if None not in (point.accuracy, point.depth)]
    return [point for point in known if not any(beats(other, point) for other in known)]


def _goodness(point: Point) -> tuple[float, float, float]:
    return point.percent, -point.latency.median, -math.inf if point.depth is None else -point.depth


def _points(run: Run, folder: Path) -> list[Point]:
    if run.bench is None:
        return []
    bench, page = run.bench, _link(run, folder)
    device, title = bench.device.name or "?", TITLES[bench.runtime]
    compared = {(each.candidate, each.batch): each for each in bench.comparisons}
    return [
        Point(
            run=run.name,
            network=model.name,
            where=f"{_data(run, bench)}: {title} on {device}, batch {model.batch}, {model.precision}",
            depth=model.network.depth,
            accuracy=model.known_accuracy,
            latency=model.latency_ms,
            comparison=compared.get((model.name, model.batch)),
            page=page,
        )
        for model in bench.models
    ]


def _data(run: Run, bench: BenchResult) -> str:
    """What a run's accuracies are of. Only the folder's name: the same images lie elsewhere on other machines."""
    pretrain = run.config.stages.get(PRETRAIN.command) if run.config else None
    name = Path(str(pretrain.settings.get("data", ""))).name if pretrain else ""
    images = bench.settings.images
    return (name or "unknown data") + (f", {images} test images" if images else "")


def _link(run: Run, folder: Path) -> str:
    return Path(os.path.relpath(run.folder / "report.html", folder)).as_posix()


def _chart(points: list[Point], name: str) -> Markup | None:
    """Accuracy against latency, and against depth; what was folded is filled, an original hollow."""
    shown = [point for point in points if point.accuracy is not None]
    if not shown:
        return None
    titles = {}
    with matplotlib.rc_context(STYLE):
        drawn = figure(7.2, 3.4)
        by_latency, by_depth = drawn.subplots(1, 2, sharey=True, width_ratios=[3, 2])
        for number, point in enumerate(shown):
            folded = point.comparison is not None
            color = ACCENT if folded else MUTED
            y, (low, high) = point.percent, point.latency.ci95
            by_latency.hlines(y, low, high, color=color, linewidth=1.4)
            for axes, x in ((by_latency, point.latency.median), (by_depth, point.depth)):
                if x is None:
                    continue
                gid = f"point-{number}-{'latency' if axes is by_latency else 'depth'}"
                axes.plot(
                    [x], [y], "o", color=color, markerfacecolor=color if folded else "none", markersize=8, gid=gid
                )
                titles[gid] = point.title
        front = sorted(best(shown), key=lambda point: point.latency.median)
        line = [(point.latency.median, point.percent) for point in front]
        by_latency.plot(*zip(*line, strict=True), color=ACCENT, linewidth=1, alpha=0.5, zorder=1) if line else None
        by_latency.set(xlabel="median latency, ms", ylabel="accuracy, %")
        by_depth.set_xlabel("depth, weighted layers")
        by_depth.xaxis.get_major_locator().set_params(integer=True)
        by_latency.margins(x=0.14, y=0.16)
        by_depth.margins(x=0.1)
        for axes in (by_latency, by_depth):
            axes.tick_params(length=0)
        by_latency.set_ylim(top=min(by_latency.get_ylim()[1], 100.5))
        _label(drawn, by_latency, shown)
        return inline(drawn, name, "accuracy of each run against its latency and its depth", titles)


def _label(drawn: Figure, axes: Axes, points: list[Point]) -> None:
    """Write the runs beside their dots, as far as there is room: no name covers a dot, an interval or another name."""
    drawn.draw_without_rendering()  # only then is it known where the dots are
    ends = [[(value, point.percent) for value in point.latency.ci95] for point in points]
    taken = [Bbox(axes.transData.transform(pair)).padded(DOT) for pair in ends]
    for point in points:
        for offset, ha, va in SIDES if point.comparison else ():
            text = axes.annotate(
                clipped(point.run, 24), (point.latency.median, point.percent), offset,
                textcoords="offset points", ha=ha, va=va, color=INK,
            )  # fmt: skip
            text.set_in_layout(False)
            box = text.get_window_extent()
            inside = axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1 and axes.bbox.y0 <= box.y0
            if inside and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            text.remove()
