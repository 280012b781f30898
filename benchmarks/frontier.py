"""The frontier of one network: what each way of making it faster costs in accuracy, from the notes in docs/results."""

import shlex
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.notes import Note
from benchmarks.repeats import Experiment, experiments
from layer_folding.files import atomic_path
from layer_folding.fold.reporting import quantity

NETWORK = "resnet20"
WAYS = ("fits", "exact merges, planned", "gates with identity", "gates with affine maps")


@dataclass(frozen=True)
class Row:
    """An experiment of one ``way``. Accuracies are fractions, one for each run.

    ``speedups`` has those of the runs whose latency was measured; ``ci95`` is that of the speed-up of a single one.
    """

    way: str
    name: str
    layers: str
    macs: str
    original: tuple[float, ...]
    folded: tuple[float, ...]
    speedups: tuple[float, ...]
    ci95: tuple[float, float] | None

    @property
    def change(self) -> float:
        """What folding did to the accuracy, in points, the mean over the runs."""
        return 100 * (statistics.mean(self.folded) - statistics.mean(self.original))

    @property
    def speedup(self) -> float | None:
        """The mean over the runs, None where none was measured."""
        return statistics.mean(self.speedups) if self.speedups else None


def way(note: Note) -> str:
    """One of `WAYS`, decided from the commands of ``note`` and the version that ran them."""
    words = [shlex.split(command) for command in note.commands]
    prefold = next((given for given in words if "prefold" in given or "fit" in given), [])
    if "fit" in prefold:
        return WAYS[0]
    if "--remove" in prefold:
        return WAYS[1]
    early = str(note.versions.get("layer-folding")).startswith("0.1.")  # its gates knew no affine maps
    linear = prefold[prefold.index("--linear") + 1] if "--linear" in prefold else "identity" if early else "affine"
    return WAYS[2] if linear == "identity" else WAYS[3]


def rows(runs: Mapping[str, Note]) -> list[Row]:
    """The rows of `NETWORK`, way by way, the most accurate first."""
    found = [_row(each) for each in experiments(runs) if each.first.model == NETWORK]
    return sorted(found, key=lambda row: (WAYS.index(row.way), -row.change))


def _row(experiment: Experiment) -> Row:
    notes = experiment.runs.values()
    measured = [note.comparison for note in notes if note.comparison]
    return Row(
        way=way(experiment.first),
        name=experiment.name,
        layers=span(str(note.cost.folded.depth) for note in notes),
        macs=span(quantity(note.cost.folded.macs) for note in notes),
        original=tuple(note.accuracy["original"] for note in notes),
        folded=tuple(note.accuracy["folded"] for note in notes),
        speedups=tuple(comparison.speedup for comparison in measured),
        ci95=measured[0].ci95 if len(measured) == 1 else None,
    )


def span(texts: Iterable[str]) -> str:
    """The different ones of ``texts``."""
    return " or ".join(sorted(set(texts)))


def table(found: Sequence[Row]) -> list[list[str]]:
    """A header and rows: accuracies in %, with the standard deviation over the seeds where there are several."""
    header = ["way", "experiment", "runs", "layers", "MACs", "before", "folded", "points", "speed-up"]
    return [header, *(_cells(row) for row in found)]


def _cells(row: Row) -> list[str]:
    speedup = "not measured"
    if row.ci95:
        speedup = f"{row.speedups[0]:.3f}x [{row.ci95[0]:.3f}, {row.ci95[1]:.3f}]"
    elif row.speedups:
        speedup = f"{spread(row.speedups, 3)}x"
    return [
        row.way,
        f"[{row.name}](#{row.name})",
        str(len(row.folded)),
        row.layers,
        row.macs,
        f"{100 * statistics.mean(row.original):.2f}",
        spread([100 * accuracy for accuracy in row.folded], 2),
        f"{row.change:+.2f}",
        speedup,
    ]


def spread(values: Sequence[float], digits: int) -> str:
    """The mean, and the standard deviation where there are several different ``values``."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(set(values)) == 1 else f"{mean} +- {statistics.stdev(values):.{digits}f}"


def draw(path: Path, found: Sequence[Row]) -> None:
    """Change of accuracy (points) against speed-up, a colour for each way, for the rows with a speed-up."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.8), layout="constrained")
    axes = figure.add_subplot()
    axes.axvline(1, color="tab:gray", linewidth=0.8)
    axes.axhline(0, color="tab:gray", linewidth=0.8)
    for index, name in enumerate(WAYS):
        points = [row for row in found if row.way == name and row.speedups]
        if points:
            deviations = [100 * statistics.stdev(row.folded) if len(row.folded) > 1 else 0.0 for row in points]
            x, y = [statistics.mean(row.speedups) for row in points], [row.change for row in points]
            axes.errorbar(x, y, yerr=deviations, fmt="osD^"[index], color=f"C{index}", capsize=3, label=name)
    axes.set_xlabel("speed-up of the folded network (above 1: faster)")
    axes.set_ylabel("accuracy, folded less original (points)")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small")
    with rc_context({"svg.hashsalt": "frontier"}), atomic_path(path) as temporary:
        FigureCanvasSVG(figure).print_svg(temporary, metadata={"Date": None})
