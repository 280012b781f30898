"""The fastest plan whose measured loss stays within a bound.

Importances are of one change alone, and a plan makes many. So a plan is chosen here by what it loses as a whole, which
takes a fit of all its layers: some ten plans are tried, found by bisection between the fastest and the original.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

STEP = 0.005  # plans whose times differ by less than this share of the original's are tried as one
NEIGHBOURS = 2  # faster plans that are tried after the bisection, since losses need not fall all the way


def fastest_within(times: Sequence[float], is_within: Callable[[int], bool]) -> int:
    """The number of the fastest plan that was tried and ``is_within`` the bound.

    ``times`` (ms) go up to that of the original network, which is not tried. ``is_within`` is called at most once for
    each number.
    """
    tried, is_within = _apart(times), cache(is_within)
    low, high = -1, len(tried) - 1  # of the tried: the slowest that is known to be beyond, the fastest that is within
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_within(tried[middle]) else (middle, high)
    for faster in range(high - 2, max(high - 2 - NEIGHBOURS, -1), -1):
        if is_within(tried[faster]):
            high = faster
    return tried[high]


def _apart(times: Sequence[float]) -> list[int]:
    """Of the plans in each step of time the slowest, which loses least; the original network alone at the end."""
    steps = [int(time / (STEP * times[-1])) for time in times]
    last = len(times) - 1
    return [i for i, step in enumerate(steps) if i == last or (i + 1 < last and step != steps[i + 1]) or i + 1 == last]
