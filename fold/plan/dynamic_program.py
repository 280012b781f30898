"""What a network can gain by folding, and what it costs: every best plan, from one dynamic program.

A plan chooses candidates that do not overlap. The program goes over the places that candidates occupy, in order, and
keeps for each set of places that is taken ahead the plans that no other plan beats in both time and importance. In a
chain that is one set for each end of a candidate; branches, and candidates inside and across skips, add a few.
Numbers only: neither networks nor PyTorch are known here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

_POINTS = 4096  # plans kept for each set; where there are more, time is discretised to that many steps
_ROUNDING = 1e-12  # importances closer than this, relative to the largest, are a tie


@dataclass(frozen=True)
class Gain:
    """What choosing a candidate gives: it ``saves`` time (ms) and ``loses`` importance (0 or more).

    ``occupies`` are the places, numbers from 0, that no other chosen candidate may have.
    """

    occupies: frozenset[int]
    saves: float
    loses: float = 0.0


@dataclass(frozen=True)
class Frontier:
    """The plans that no other beats: ``times`` (ms) go up, and the importances that they ``lose`` go down."""

    times: np.ndarray
    loses: np.ndarray
    _front: _Front = field(repr=False)

    def under(self, budget: float) -> int | None:
        """The number of the plan that loses least in at most ``budget`` ms; None where the fastest takes longer."""
        within = int(np.searchsorted(self.times, budget, side="right"))
        return within - 1 if within else None

    def chosen(self, number: int) -> list[int]:
        """The candidates of a plan, as indices into the sequence that `frontier` was given, in order of place."""
        front = self._front
        found: list[int] = []
        while front.sources:
            before, candidate = front.sources[front.source[number]]
            front, number = before, int(front.point[number])
            found += [] if candidate is None else [candidate]
        return found[::-1]


def frontier(time: float, candidates: Sequence[Gain]) -> Frontier:
    """The best plans for a network that takes ``time`` ms with nothing chosen. Ties go to the faster.

    It is exact for as long as no set of places has more than some thousand plans that no other beats; beyond that,
    of plans whose times are closer than a step one is kept, the step being a few thousandths of a per cent of what
    can be saved. Times are those of the plans either way, so no plan is ever over a budget that `Frontier.under` got.
    """
    starts = defaultdict(list)
    for index, candidate in enumerate(candidates):
        if candidate.saves > 0:  # else it loses on both counts
            mask = sum(1 << place for place in candidate.occupies)
            starts[min(candidate.occupies)].append((mask, index))
    one = np.zeros(1)
    states = {0: _Front(one, one, [], one.astype(int), one.astype(int))}  # by the places that are taken ahead, as bits
    for place in range(max((max(c.occupies) for c in candidates), default=-1) + 1):
        arrivals: dict[int, list[tuple[_Front, int | None]]] = defaultdict(list)
        for taken, front in states.items():
            arrivals[taken >> 1].append((front, None))
            for mask, index in starts[place]:
                if not mask >> place & taken:
                    arrivals[(mask >> place | taken) >> 1].append((front, index))
        states = {taken: _merge(sources, candidates) for taken, sources in arrivals.items()}
    (front,) = states.values()
    return Frontier(time - front.saves, front.loses, front)


@dataclass(frozen=True, eq=False, repr=False)
class _Front:
    """Partial plans, fastest first, and for each the source that it came from and the number that it had there."""

    saves: np.ndarray
    loses: np.ndarray
    sources: list[tuple[_Front, int | None]]
    source: np.ndarray
    point: np.ndarray


def _merge(sources: list[tuple[_Front, int | None]], candidates: Sequence[Gain]) -> _Front:
    if len(sources) == 1 and sources[0][1] is None:
        return sources[0][0]
    gains = [
        (0.0, 0.0) if index is None else (candidates[index].saves, candidates[index].loses) for _, index in sources
    ]
    saves = np.concatenate([front.saves + gain[0] for (front, _), gain in zip(sources, gains, strict=True)])
    loses = np.concatenate([front.loses + gain[1] for (front, _), gain in zip(sources, gains, strict=True)])
    source = np.repeat(np.arange(len(sources)), [len(front.saves) for front, _ in sources])
    point = np.concatenate([np.arange(len(front.saves)) for front, _ in sources])
    order = np.lexsort((loses, -saves))
    least = np.minimum.accumulate(loses[order])
    best = np.ones(len(order), bool)
    best[1:] = loses[order][1:] < least[:-1] - _ROUNDING * loses.max()
    order = order[best]
    if len(order) > _POINTS:
        order = order[_spread(saves[order])]
    return _Front(saves[order], loses[order], sources, source[order], point[order])


def _spread(saves: np.ndarray) -> np.ndarray:
    """The numbers of the fastest plan and, in each step of time, of the slowest, which loses least."""
    step = np.floor(saves / saves[0] * (_POINTS - 1))
    last = np.append(step[1:] != step[:-1], True)
    last[0] = True
    return np.flatnonzero(last)
