"""Which way for which goal: the fastest way within each loss of accuracy, from measurements in docs/results alone."""

import re
from collections.abc import Sequence

from benchmarks.document import Document
from benchmarks.frontier import NETWORK, Row

LOSSES = (0.0, 0.5, 1.5, 3.0)  # points of accuracy


def table(frontier: Sequence[Row], benchmarks: Sequence[Document]) -> list[list[str]]:
    """A header and a row for each goal that something was measured for."""
    header = ["goal", "way", "speed-up", "accuracy, points", "measured in"]
    return [header, *_within_losses(frontier), *_on_gpus(benchmarks)]


def _within_losses(frontier: Sequence[Row]) -> list[list[str]]:
    rows = []
    for loss in LOSSES:
        within = [(row.speedup, row) for row in frontier if row.speedup is not None and row.change >= -loss]
        if within:
            speedup, best = max(within, key=lambda pair: pair[0])
            chosen = best.way if speedup > 1 else "none: leave the network as it is"
            allowed = f"at most {loss:g} points lost" if loss else "no loss"
            link = f"[{best.name}](#{best.name})"
            rows.append([f"{NETWORK} on a CPU, {allowed}", chosen, f"{speedup:.2f}x", f"{best.change:+.2f}", link])
    return rows


def _on_gpus(benchmarks: Sequence[Document]) -> list[list[str]]:
    rows = []
    for document in benchmarks:
        if document.benchmark != "benchmarks.gpu" or document.gpu is None:
            continue
        for network, precision, batch, _, *found in document.table[1:]:
            if (precision, batch) == ("fp16", "1"):
                (merged, *merged_ci), (fitted, *fitted_ci) = map(_speedup, found)
                apart = fitted_ci[0] > merged_ci[1] or merged_ci[0] > fitted_ci[1]
                chosen = ("fits" if fitted > merged else "exact merges") if apart else "fits or exact merges"
                speedups = f"fits {fitted:.2f}x, exact merges {merged:.2f}x"
                goal = f"{network} on {document.gpu.name}, fp16, batch 1"
                rows.append([goal, chosen, speedups, "random weights", "[On a GPU](#on-a-gpu)"])
    return rows


def _speedup(cell: str) -> list[float]:
    """The speed-up in a ``cell`` of a table, and the two ends of its interval."""
    return [float(number) for number in re.findall(r"\d+\.\d+", cell)]
