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
    """A picture of how the gates opened over the epochs in ``rows``, one row of cells a gate, open ones outlined."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = [key for key in rows[0] if key not in COLUMNS]
    values = [[row[name] for row in rows] for name in names]
    epochs = [row["epoch"] for row in rows]
    size = (8, 2.6 + 0.24 * len(names))  # inches
    heights = [max(len(names), 4), 6]
    figure, (cells, curve) = plt.subplots(2, 1, sharex=True, height_ratios=heights, figsize=size, layout="constrained")
    edges = [epochs[0] - 0.5, epochs[-1] + 0.5]
    image = cells.imshow(values, vmin=0, vmax=1, cmap="viridis", aspect="auto", extent=[*edges, len(names) - 0.5, -0.5])
    cells.set_yticks(range(len(names)), names, fontsize=7)
    for row, name in enumerate(names):
        if rows[-1][name] >= threshold:
            cells.text(edges[1], row, " open", va="center", fontsize=7, color="tab:red")
    cells.set_title("gates: 0 is the activation, 1 the identity", fontsize=9, loc="left")
    figure.colorbar(image, ax=cells, pad=0.07, label="alpha")
    curve.plot(epochs, [100 * row["accuracy"] for row in rows], marker="o", color="tab:blue")
    curve.set_ylabel("test accuracy (%)", color="tab:blue")
    curve.set_xlabel("epoch")
    curve.xaxis.get_major_locator().set_params(integer=True)
    depths = curve.twinx()
    depths.step(epochs, [row["depth"] for row in rows], where="mid", color="tab:orange")
    depths.set_ylabel("layers if folded now", color="tab:orange")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
    plt.close(figure)
