"""What the epochs of a run gave: metrics.csv for programs, gates.png for people."""

import csv
import io
from pathlib import Path

from fold.files import atomic_path, write_text

COLUMNS = ("stage", "epoch", "loss", "task", "accuracy", "penalty", "depth", "seconds")


def record(run: Path, stage: str, rows: list[dict]) -> None:
    """Make ``rows`` the rows of ``stage`` in ``run``/metrics.csv; keys beyond COLUMNS are gates, a column each."""
    path = run / "metrics.csv"
    kept = []
    if path.exists():
        with open(path, newline="", encoding="utf-8") as file:
            kept = [row for row in csv.DictReader(file) if row["stage"] != stage]
    everything = kept + [{"stage": stage, **row} for row in rows]
    columns = list(dict.fromkeys([*COLUMNS, *(key for row in everything for key in row)]))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(everything)
    write_text(path, text.getvalue())


def draw_gates(path: Path, rows: list[dict], threshold: float) -> None:
    """A picture of the epochs in ``rows``: how the gates opened, a row of cells each with its last value, red from
    ``threshold`` on; below, with the same epochs, accuracy and depth."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = [key for key in rows[0] if key not in COLUMNS]
    epochs = [row["epoch"] for row in rows]
    edges = [epochs[0] - 0.5, epochs[-1] + 0.5]
    heights = [0.5 + 0.2 * len(names), 1.6, 1.2]  # inches
    figure, (cells, accuracy, depth) = plt.subplots(
        3, 1, sharex=True, height_ratios=heights, figsize=(8, 1 + sum(heights)), layout="constrained"
    )
    values = [[row[name] for row in rows] for name in names]
    image = cells.imshow(values, vmin=0, vmax=1, cmap="viridis", aspect="auto", extent=[*edges, len(names) - 0.5, -0.5])
    cells.set_yticks(range(len(names)), names, fontsize=8)
    for line, name in enumerate(names):
        last = rows[-1][name]
        color = "tab:red" if last >= threshold else "black"
        cells.text(edges[1], line, f" {last:.2f}", va="center", fontsize=8, color=color)
    opened = sum(rows[-1][name] >= threshold for name in names)
    title = f"gates, from 0 (activation) to 1 (identity): {opened} of {len(names)} open (red, from {threshold:g} on)"
    cells.set_title(title, fontsize=10, loc="left")
    figure.colorbar(image, ax=cells, pad=0.07, label="alpha")
    accuracy.plot(epochs, [100 * row["accuracy"] for row in rows], marker="o", markersize=4)
    accuracy.set_ylabel("test accuracy (%)", fontsize=9)
    depth.step(epochs, [row["depth"] for row in rows], where="mid", marker="o", markersize=4, color="tab:orange")
    depth.set_ylabel("weighted layers\nif folded now", fontsize=9)
    depth.set_xlabel("epoch")
    depth.set_xlim(edges)
    for axis in (depth.xaxis, depth.yaxis):
        axis.set_major_locator(plt.MaxNLocator(integer=True, min_n_ticks=1))
    for axes in (accuracy, depth):
        axes.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
    plt.close(figure)
