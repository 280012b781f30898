"""What int8 costs by layer, for people and programs: a table, a CSV file and a bar chart."""

import csv
import io
from pathlib import Path

from layer_folding.files import atomic_path, write_text
from layer_folding.fold.reporting import table

from .sensitivity import Sensitivity

_MOST = 60  # bars of a picture


def as_text(found: Sensitivity) -> str:
    """The table, the most sensitive layer first; differences in per cent of the outputs."""
    rows = [["layer", "alone in int8", "all but this in int8"]]
    rows += [[each.layer, f"{each.alone:.3%}", f"{each.others:.3%}"] for each in found.layers]
    return (
        f"{table(rows)}\n\nall in int8: {found.whole:.3%}; relative difference of the outputs, on {found.images} images"
    )


def write_csv(path: Path, found: Sensitivity) -> None:
    """A row for each layer, the most sensitive first; differences are fractions of the outputs."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["layer", "alone", "others"])
    writer.writerows([each.layer, each.alone, each.others] for each in found.layers)
    write_text(path, text.getvalue())


def draw(path: Path, found: Sensitivity, title: str) -> None:
    """Draw a pair of bars for each layer, the most sensitive at the top; of more than 60 layers, the first 60."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    layers = found.layers[:_MOST]
    figure = Figure(figsize=(8, 1.5 + 0.28 * len(layers)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    places = range(len(layers))
    axes.barh([y - 0.2 for y in places], [100 * each.alone for each in layers], 0.4, label="this layer alone in int8")
    axes.barh(
        [y + 0.2 for y in places], [100 * each.others for each in layers], 0.4, label="all but this layer in int8"
    )
    axes.axvline(100 * found.whole, color="black", lw=0.8, ls="--", label="all in int8")
    axes.set_yticks(list(places), [each.layer for each in layers], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(f"difference of the outputs (%), on {found.images} images")
    axes.set_title(
        title if len(layers) == len(found.layers) else f"{title}, the first {_MOST}", fontsize=10, loc="left"
    )
    axes.legend(fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
