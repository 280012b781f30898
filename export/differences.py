"""How far outputs are from what they should be: for each output, and each group of channels, by its own size.

A detector's boxes are hundreds of pixels and its scores below 1, often in one tensor. By the largest value of all, a
network whose scores are all zero would pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

_APART = 32  # channels whose largest values differ by more do not belong to one group
_ENOUGH = 64  # values of a channel, for the largest to tell its size: a score of a few images may be near 0 by chance
_NOISE = 1e-4  # of an output: what is smaller is rounding of larger values, and has no size of its own
# Small values can be sums of large ones, of which each is rounded. So a group of small channels may be off by half of
# what the whole output may be off, as long as that is less than a quarter of its own size.
_ROUNDING, _LOST = 0.5, 0.25


@dataclass(frozen=True)
class Difference:
    """The largest absolute difference over the largest absolute value, and which values had it; NaN where an output was
    not finite."""

    error: float
    where: str


@dataclass
class Output:
    """One output over several batches: of each channel the largest value and the largest difference.

    Channels are on axis 1 of ``[N, C, ...]``, or on the last axis of ``[N, M, C]``.
    """

    name: str
    sizes: dict[int, np.ndarray] = field(default_factory=dict)  # by axis, [C]
    differences: dict[int, np.ndarray] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)  # values of a channel

    def add(self, expected: np.ndarray, actual: np.ndarray) -> None:
        """Take in one batch; both are of the same shape."""
        expected, actual = (x if x.dtype.kind == "f" else x.astype(np.float64) for x in (expected, actual))
        with np.errstate(invalid="ignore"):  # inf - inf
            difference = np.abs(actual - expected)
        if expected.ndim < 2:
            expected, difference = expected.reshape(-1, 1), difference.reshape(-1, 1)
        for axis in (1, 2) if expected.ndim == 3 else (1,):
            self.counts[axis] = self.counts.get(axis, 0) + expected.size // max(expected.shape[axis], 1)
            for seen, values in ((self.sizes, np.abs(expected)), (self.differences, difference)):
                largest = _by_channel(values, axis)
                before = seen.get(axis)
                # an axis whose length changes is none of channels; np.maximum keeps a NaN
                if before is not None and len(before) != len(largest):
                    largest, before = largest.max(keepdims=True, initial=0), before.max(keepdims=True, initial=0)
                seen[axis] = largest if before is None else np.maximum(before, largest)

    def worst(self) -> Difference:
        """The group of channels with the largest difference by its own size."""
        if not all(np.isfinite(values).all() for seen in (self.sizes, self.differences) for values in seen.values()):
            return Difference(np.nan, f"output {self.name}")
        found = [Difference(0.0, f"output {self.name}")]
        for axis, sizes in self.sizes.items():
            groups = _groups(sizes) if self.counts[axis] >= _ENOUGH else [(0, len(sizes))]
            for start, end in groups:
                size = max(sizes[start:end].max(), _NOISE * sizes.max())
                difference = self.differences[axis][start:end].max()
                error = difference / size if size else difference
                if size < sizes.max():
                    error = max(difference / (size + _ROUNDING * sizes.max()), error - _LOST)
                part = f", channels {start} to {end - 1} of axis {axis}" if len(groups) > 1 else ""
                found.append(Difference(float(error), found[0].where + part))
        return max(found, key=lambda each: each.error)


def worst(outputs: Sequence[Output]) -> Difference:
    """The largest difference of several outputs; NaN if any is."""
    return max((output.worst() for output in outputs), key=lambda each: (np.isnan(each.error), each.error))


def _by_channel(values: np.ndarray, axis: int) -> np.ndarray:
    return values.max(axis=tuple(other for other in range(values.ndim) if other != axis), initial=0)


def _groups(sizes: np.ndarray) -> list[tuple[int, int]]:
    """Runs of neighbouring channels whose largest values are of one order, as (first, behind the last).

    One channel alone that differs from both its neighbours, which are of one order, is taken for one of theirs.
    """
    edges, low, high = [0], sizes[0], sizes[0]
    for index, size in enumerate(sizes):
        low, high = min(low, size), max(high, size)
        if _are_apart(low, high, sizes):
            edges.append(index)
            low = high = size
    groups: list[tuple[int, int]] = []
    for start, end in zip(edges, [*edges[1:], len(sizes)], strict=True):
        if len(groups) > 1 and groups[-1][1] - groups[-1][0] == 1:
            around = [sizes[slice(*groups[-2])].max(), sizes[start:end].max()]
            if not _are_apart(min(around), max(around), sizes):
                start = groups[-2][0]
                del groups[-2:]
        groups.append((start, end))
    return groups


def _are_apart(low: float, high: float, sizes: np.ndarray) -> bool:
    return high > _APART * max(low, _NOISE * sizes.max())
