"""The fastest way to cut a chain of layers into merged ones, if nothing but time counts. Needs numbers only."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from layer_folding.files import write_text
from layer_folding.latency_rows import Row


@dataclass(frozen=True)
class Split:
    """The fastest way to run the layers ``breaks[0] + 1 .. breaks[-1]``: one layer between each two breaks.

    ``time`` and ``stdev`` in ms are sums over these layers.
    """

    time: float
    stdev: float
    breaks: tuple[int, ...]


def optimal_splits(rows: Sequence[Row]) -> list[Split]:
    """For each row of a latency table, the fastest split of its segment into rows; ties stay whole, or split early.

    ``opt(st, end) = min(time(st, end), min over j of opt(st, j) + time(j, end))``, where rows ``(st, j)`` and
    ``(j, end)`` exist: algorithm 1 of Kim et al., ICML 2023 (arXiv 2301.12187).
    """
    table = {(row.st, row.end): row for row in rows}
    best: dict[tuple[int, int], Split] = {}
    for st, end in sorted(table):
        row = table[st, end]
        split = Split(row.time, row.stdev, (st, end))
        for j in range(st + 1, end):
            if (st, j) in best and (j, end) in table:
                before, last = best[st, j], table[j, end]
                if before.time + last.time < split.time:
                    split = Split(before.time + last.time, before.stdev + last.stdev, (*before.breaks, end))
        best[st, end] = split
    return [best[row.st, row.end] for row in rows]


def write_splits(path: str | Path, rows: Sequence[Row], splits: Sequence[Split]) -> None:
    """Write the fastest split of each row, in the columns of the published ``opt-time`` tables."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "st", "end", "time", "stdev", "breaks"])
    for index, (row, split) in enumerate(zip(rows, splits, strict=True)):
        writer.writerow([index, row.st, row.end, split.time, split.stdev, ",".join(map(str, split.breaks))])
    write_text(path, text.getvalue())
