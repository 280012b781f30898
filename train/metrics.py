"""What the epochs of a run gave: metrics.csv for programs, gates.png for people."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from layer_folding import epoch_records
from layer_folding.epoch_records import COLUMNS, Epoch
from layer_folding.files import atomic_path

Row = dict[str, float]  # an epoch: COLUMNS but the stage, then the gates by name


def record(run: Path, stage: str, rows: list[Row]) -> list[Epoch]:
    """Make ``rows`` the rows of ``stage`` in ``run``/metrics.csv; keys beyond COLUMNS are gates, a column each.

    Returns the epochs of the stage.
    """
    path = run / "metrics.csv"
    kept = [epoch for epoch in epoch_records.read(path).epochs if epoch.stage != stage]
    epochs = [_epoch(stage, row) for row in rows]
    epoch_records.write(path, [*kept, *epochs])
    return epochs


def _epoch(stage: str, row: dict) -> Epoch:
    known = {name: value for name, value in row.items() if name in COLUMNS}
    return Epoch(stage=stage, **known, gates={name: value for name, value in row.items() if name not in COLUMNS})


def draw_gates(path: Path, epochs: Sequence[Epoch], threshold: float, kept: Collection[str] = ()) -> None:
    """A picture of ``epochs``: how the gates opened, a row of cells each with its last value, red from ``threshold``
    on; below, with the same epochs, accuracy and depth. ``kept`` are open gates whose activation stays."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator

    last = epochs[-1].gates
    names = list(last)
    numbers = [epoch.epoch for epoch in epochs]
    edges = [numbers[0] - 0.5, numbers[-1] + 0.5]
    heights = [0.5 + 0.2 * len(names), 1.6, 1.2]  # inches
    figure, (cells, accuracy, depth) = plt.subplots(
        3, 1, sharex=True, height_ratios=heights, figsize=(8, 1 + sum(heights)), layout="constrained"
    )
    values = [[epoch.gates[name] for epoch in epochs] for name in names]
    image = cells.imshow(values, vmin=0, vmax=1, cmap="viridis", aspect="auto", extent=[*edges, len(names) - 0.5, -0.5])
    cells.set_yticks(range(len(names)), names, fontsize=8)
    for line, name in enumerate(names):
        color = "tab:red" if last[name] >= threshold else "black"
        stays = " stays" if name in kept else ""
        cells.text(edges[1], line, f" {last[name]:.2f}{stays}", va="center", fontsize=8, color=color)
    cells.set_title(_title(last, threshold, kept), fontsize=10, loc="left")
    figure.colorbar(image, ax=cells, pad=0.07, label="alpha")
    accuracy.plot(numbers, [100 * epoch.accuracy for epoch in epochs], marker="o", markersize=4)
    accuracy.set_ylabel("test accuracy (%)", fontsize=9)
    layers = [epoch.depth for epoch in epochs]
    depth.step(numbers, layers, where="mid", marker="o", markersize=4, color="tab:orange")
    depth.set_ylabel("weighted layers,\nif folded now", fontsize=9)
    depth.set_xlabel("epoch")
    depth.set_xlim(edges)
    for axis in (depth.xaxis, depth.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    for axes in (accuracy, depth):
        axes.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
    plt.close(figure)


def _title(last: Mapping[str, float], threshold: float, kept: Collection[str]) -> str:
    opened = sum(alpha >= threshold for alpha in last.values())
    stay = f", {len(kept)} of these stay (--max-growth)" if kept else ""
    return f"gates, from 0 (activation) to 1 (linear): {opened} of {len(last)} open (red, from {threshold:g} on){stay}"
