"""Time contenders against each other: interleaved, in one process, with every sample kept."""

import contextlib
import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """The samples of one measurement in ms, by contender: the first is the baseline. Two samples make a round."""

    name: str
    samples_ms: dict[str, list[float]]

    @property
    def rounds(self) -> int:
        """How often each contender was timed there and back."""
        return len(next(iter(self.samples_ms.values()))) // 2


def interleave(
    name: str,
    contenders: Mapping[str, Callable[[], object]],
    rounds: int,
    progress: Progress = lambda text: None,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> Row:
    """Time ``contenders`` in ``rounds`` that go through all of them and back (A B B A), a call each time.

    Each is called once before, untimed. What drifts in time, such as the load of the machine, so cancels within a round
    (`trt_bench.stats.paired_ratios`). Garbage is collected between calls, not within. ``clock`` counts ns.
    """
    for contender, call in contenders.items():
        progress(f"{name}: {contender}: warm-up")
        call()
    samples_ms: dict[str, list[float]] = {contender: [] for contender in contenders}
    there = list(contenders)
    for done in range(rounds):
        for contender in there + there[::-1]:
            progress(f"{name}: {contender}: round {done + 1} of {rounds}")
            with _no_collection():
                start = clock()
                contenders[contender]()
                samples_ms[contender].append(1e-6 * (clock() - start))
    progress("")
    return Row(name, samples_ms)


def total(name: str, parts: Sequence[tuple[int, Row]]) -> Row:
    """A whole made of ``parts``, so many of each: the samples of all parts in a round, summed.

    The parts must have the same contenders and rounds. Raises ValueError where they have not.
    """
    first = parts[0][1]
    if any((list(row.samples_ms), row.rounds) != (list(first.samples_ms), first.rounds) for _, row in parts):
        raise ValueError(f"{name}: parts differ in contenders or rounds")
    samples_ms = {
        contender: np.sum([count * np.array(row.samples_ms[contender]) for count, row in parts], axis=0).tolist()
        for contender in first.samples_ms
    }
    return Row(name, samples_ms)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """A block within which Python's garbage collector does not run, which would hit one contender or another."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
