"""Accuracy against planned speed-up over the points of a sweep over budgets: a table, frontier.csv and frontier.png."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from layer_folding.files import atomic_path, write_text
from layer_folding.fold import checkpoints
from layer_folding.fold.reporting import table
from layer_folding.plans import read_plan
from layer_folding.stages import FINETUNE, FOLD, NETWORKS, PREFOLD, STAGES

from .sweep_results import Original, depth_of

_TITLES = {PREFOLD.network: "fitted", FINETUNE.network: "fine-tuned", FOLD.network: "folded"}


@dataclass(frozen=True)
class BudgetPoint:
    """What one budget gave: a network ``asked`` to be so many times as fast, and ``planned`` to be so.

    ``latency_ms`` is predicted, ``fitted`` counts layers, ``depth`` is in weighted layers, and ``accuracy`` is that of
    each network on the way (`stages.NETWORKS`). Where nothing is left to merge, the last one counts as the folded
    network.
    """

    asked: float
    planned: float
    latency_ms: float
    fitted: int
    depth: int
    accuracy: Mapping[str, float]


def read(folder: Path, asked: float, trust: str | None = None) -> BudgetPoint:
    """The point of ``folder``: of the last network that was made there. Raises InputError for damaged files."""
    plan = read_plan(folder / "plan.json")
    last = next(path for path in (folder / stage.file for stage in reversed(STAGES)) if path.exists())
    recipe = checkpoints.read(last)[0]
    accuracy = {FOLD.network: recipe.accuracy[recipe.stage], **recipe.accuracy}
    return BudgetPoint(asked, plan.speedup, plan.latency_ms, len(plan.merges), depth_of(last, trust), accuracy)


def as_text(points: list[BudgetPoint], original: Original) -> str:
    """The table, with accuracies in percent."""
    rows = [["speed-up asked", "planned", "predicted ms", "layers fitted", "depth", *_TITLES.values()]]
    for point in points:
        percent = [f"{100 * point.accuracy[name]:.2f}" if name in point.accuracy else "-" for name in _TITLES]
        times = [f"{point.asked:g}x", f"{point.planned:.3f}x", f"{point.latency_ms:.4f}"]
        rows.append([*times, str(point.fitted), str(point.depth), *percent])
    before = f"the original has {100 * original.accuracy:.2f} % and {original.depth} layers"
    return f"accuracy in % of each network; {before}\n\n{table(rows)}"


def write_csv(path: Path, points: list[BudgetPoint]) -> None:
    """A row for each point; accuracies are fractions, empty for a network that was not made."""
    text = io.StringIO()
    names = ["asked", "planned", "latency_ms", "fitted", "depth"]
    writer = csv.DictWriter(text, [*names, *NETWORKS], restval="", lineterminator="\n")
    writer.writeheader()
    for point in points:
        known = {name: point.accuracy[name] for name in NETWORKS if name in point.accuracy}
        writer.writerow({name: getattr(point, name) for name in names} | known)
    write_text(path, text.getvalue())


def draw(path: Path, points: list[BudgetPoint], original: Original, title: str) -> None:
    """The picture: accuracy against planned speed-up, fitted and folded, the original as reference."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    series = [(FOLD.network, "fine-tuned and folded", "o-"), (PREFOLD.network, "fitted, no training", "^:")]
    for name, label, style in series:
        shown = [(point.planned, 100 * point.accuracy[name]) for point in points if name in point.accuracy]
        if shown:
            axes.plot(*zip(*sorted(shown), strict=True), style, label=label)
    reference = 100 * original.accuracy
    axes.axhline(reference, color="black", lw=0.8, ls="--")
    axes.plot(1, reference, "s", color="black", label=f"original, {reference:.2f} %")
    axes.set_xlabel("planned speed-up")
    axes.set_ylabel("test accuracy (%)")
    axes.set_title(title, fontsize=10, loc="left")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
