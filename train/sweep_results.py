"""Accuracy against depth over the points of a sweep: a table, sweep.csv for programs and sweep.png for people.

The paper (arXiv 2106.09309) evaluates the *effective degree of non-linearity* (EDNL) of a network on a task with such
a curve: accuracy is roughly maintained down to a certain depth, and drops below it. That depth is the EDNL.
"""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from layer_folding.files import atomic_path, write_text
from layer_folding.fold import checkpoints
from layer_folding.fold.regions.costs import depth
from layer_folding.fold.replaying import example_of
from layer_folding.fold.reporting import table
from layer_folding.stages import FOLD, PREFOLD, PRETRAIN, STAGES, STEPS

MAINTAINED = 0.01  # accuracy is maintained when no more than this fraction of images is lost; the paper gives no number


@dataclass(frozen=True)
class Point:
    """What one lambda (``penalty``) gave: ``removed`` of so many ``gates``, the ``depth`` that remains in weighted
    layers, and the ``accuracy`` at each of STEPS that was measured."""

    penalty: float
    gates: int
    removed: int
    depth: int
    accuracy: Mapping[str, float]


@dataclass(frozen=True)
class Original:
    """The network that all points come from: its depth in weighted layers and its accuracy."""

    depth: int
    accuracy: float


def read(run: Path, penalty: float, trust: str | None = None) -> Point:
    """The point of ``run``, which has at least been prefolded; ``trust`` is as in `fold.model_names.build`.

    Raises InputError for a damaged checkpoint.
    """
    gates = checkpoints.read(run / PREFOLD.file)[0].gates
    last = next(path for path in (run / stage.file for stage in reversed(STAGES)) if path.exists())
    recipe = checkpoints.read(last)[0]
    network = last if recipe.stage == FOLD.network else run / PRETRAIN.file
    return Point(penalty, len(gates), len(recipe.removed), depth_of(network, trust), recipe.accuracy)


def depth_of(path: Path, trust: str | None = None) -> int:
    """Weighted layers on the longest path through the network of a checkpoint."""
    model, recipe = checkpoints.load(path, trust)
    return depth(model, example_of(recipe))


def ednl(points: list[Point], original: Original) -> int:
    """The smallest depth at which accuracy is still maintained: that of the original network, if no point has less."""
    kept = [point for point in points if original.accuracy - point.accuracy.get(FOLD.network, 0) < MAINTAINED + 1e-9]
    return min([original.depth, *(point.depth for point in kept)])


def as_text(points: list[Point], original: Original) -> str:
    """The table, in percent, and the EDNL in a sentence."""
    rows = [["lambda", "activations removed", "depth", *STEPS]]
    for point in points:
        percent = [f"{100 * point.accuracy[step]:.2f}" if step in point.accuracy else "-" for step in STEPS]
        rows.append([f"{point.penalty}", f"{point.removed} of {point.gates}", str(point.depth), *percent])
    return (
        f"accuracy in % after each stage; the original network has {original.depth} layers\n\n{table(rows)}\n\n"
        f"effective degree of non-linearity (EDNL): {ednl(points, original)} layers, the fewest that lose "
        f"{100 * MAINTAINED:g} point or less"
    )


def write_csv(path: Path, points: list[Point]) -> None:
    """A row for each point; accuracies are fractions, empty after a stage that was not run."""
    text = io.StringIO()
    writer = csv.DictWriter(
        text, ["lambda", "gates", "activations_removed", "depth", *STEPS], restval="", lineterminator="\n"
    )
    writer.writeheader()
    for point in points:
        row = {
            "lambda": point.penalty,
            "gates": point.gates,
            "activations_removed": point.removed,
            "depth": point.depth,
        }
        writer.writerow(row | {step: point.accuracy[step] for step in STEPS if step in point.accuracy})
    write_text(path, text.getvalue())


def draw(path: Path, points: list[Point], original: Original, title: str) -> None:
    """The picture: accuracy against remaining depth, the original as reference, and where the EDNL is."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator

    folded = [(point, 100 * point.accuracy[FOLD.network]) for point in points if FOLD.network in point.accuracy]
    reference, lost = 100 * original.accuracy, 100 * MAINTAINED
    best = {original.depth: reference}
    for point, accuracy in folded:
        best[point.depth] = max(accuracy, best.get(point.depth, 0))
    knee = ednl(points, original)
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    axes.axhspan(reference - lost, reference, color="tab:green", alpha=0.12, lw=0, label=f"up to {lost:g} point lost")
    axes.axvline(knee, color="tab:green", ls="--", lw=1, label=f"EDNL, {knee} layers: the fewest that lose no more")
    axes.plot(*zip(*sorted(best.items()), strict=True), color="tab:blue", lw=1, label="best of each depth")
    axes.scatter(
        [point.depth for point, _ in folded], [y for _, y in folded], color="tab:blue", label="folded, with its lambda"
    )
    for point, accuracy in folded:
        axes.annotate(f"λ {point.penalty:g}", (point.depth, accuracy), (5, 4), textcoords="offset points", fontsize=8)
    axes.plot(original.depth, reference, "s", color="black", label=f"original, {reference:.2f} %")
    axes.set_xlabel("depth that remains (weighted layers on the longest path)")
    axes.set_ylabel("test accuracy (%)")
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.set_title(title, fontsize=10, loc="left")
    axes.margins(0.08)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
    plt.close(figure)
