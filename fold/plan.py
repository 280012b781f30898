"""Choose what to fold by measured latency. Numbers only: neither networks nor PyTorch are known here.

`optimal_splits` answers, for a chain of layers, where a segment is cut best if nothing but time counts. For networks,
`offers` says what each candidate saves and loses; `fold.frontier` has the best plans made of these.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fold.latency import Row, Timing, Timings

if TYPE_CHECKING:
    from fold.candidates import Candidate


@dataclass(frozen=True)
class Split:
    """The fastest way to run the layers ``breaks[0] + 1 .. breaks[-1]``: one layer between each two breaks.

    ``time`` and ``stdev`` in ms are sums over these layers.
    """

    time: float
    stdev: float
    breaks: tuple[int, ...]


def optimal_splits(rows: list[Row]) -> list[Split]:
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


@dataclass(frozen=True)
class Offer:
    """A candidate that pays: it ``saves`` time, ms, with a 95 % interval of +- ``error``, and ``loses`` importance."""

    candidate: Candidate
    apart: Timing
    merged: Timing
    loses: float = 0.0

    @property
    def saves(self) -> float:
        return self.apart.time - self.merged.time

    @property
    def error(self) -> float:
        return math.hypot(self.apart.error, self.merged.error)


def offers(
    found: list[Candidate], timings: Timings, loses: Callable[[Candidate], float] = lambda candidate: 0.0
) -> list[Offer]:
    """Those candidates that are faster merged, by more than the uncertainty of the measurement.

    Raises InputError where ``timings`` are not those of this network.
    """
    every = [Offer(c, timings.of(c.apart, c.input_shape), timings.of(c.merged, c.input_shape)) for c in found]
    return [replace(offer, loses=loses(offer.candidate)) for offer in every if offer.saves > offer.error]
