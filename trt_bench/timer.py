"""Time several networks side by side, so that whatever disturbs the machine disturbs all of them alike."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from . import inference_times

Repeat = Callable[[int], np.ndarray]  # runs n inferences to their end and returns their trace, see inference_times.py

WARM_UP_S = 0.2
MIN_BLOCK_S = 0.002
MIN_ROUNDS = 10
MAX_SAMPLES = 1000  # about; longer measurements get longer blocks, so that bench.json stays small


@dataclass(frozen=True)
class Conditions:
    """How networks were timed. ``seconds`` is for each network, ``iterations_per_block`` has a number for each."""

    seconds: float
    block_ms: float
    untimed_inferences_per_block: int
    iterations_per_block: tuple[int, ...]
    rounds: int
    warm_up_s: float = WARM_UP_S
    interleaving: str = "A B B A: each round runs all networks in order and then in reverse order"
    sample: str = "median latency of one block of consecutive inferences"


@dataclass(frozen=True)
class Timing:
    """What was measured of each network, in the order given, and how.

    A sample is the median latency of a block of consecutive inferences, so that one interruption does not make a block
    slow; the traces have every inference.
    """

    samples_ms: list[list[float]]
    host_ms: list[list[float]]  # wall time of the block on the host over its inferences, the launching included
    traces: list[np.ndarray]
    conditions: Conditions


def measure(
    repeats: Sequence[Repeat],
    seconds: float = 3.0,
    clock: Callable[[], int] = time.perf_counter_ns,
    progress: Callable[[str], None] = lambda text: None,
    between: Callable[[], None] = lambda: None,
    untimed: int = 1,
) -> Timing:
    """Time ``repeats``, functions that run n inferences and return their trace when the last has ended, interleaved.

    A round goes through all networks and back (A B B A), one block of inferences each time. Blocks take about the same
    time for every network, and at least 2 ms. Rounds go on until every network was timed for at least ``seconds`` in
    at least 10 rounds. Each block starts with ``untimed`` inferences, to refill the caches that the other network has
    used. ``repeats`` may return the GPU time of the n inferences in ms, or None. ``clock`` counts ns.
    """
    progress("warm-up")
    estimates_s = [_warm_up(repeat, clock) for repeat in repeats]
    block_s = max(MIN_BLOCK_S, seconds / MAX_SAMPLES, *estimates_s)
    iterations = [math.ceil(block_s / estimate) for estimate in estimates_s]
    samples_ms: list[list[float]] = [[] for _ in repeats]
    host_ms: list[list[float]] = [[] for _ in repeats]
    traces: list[list[np.ndarray]] = [[] for _ in repeats]
    timed_s = [0.0] * len(repeats)
    there = list(range(len(repeats)))
    begin = clock()
    rounds = 0
    while rounds < MIN_ROUNDS or min(timed_s) < seconds:
        for index in there + there[::-1]:
            if untimed:
                repeats[index](untimed)
            start = clock()
            block = repeats[index](iterations[index])
            elapsed_s = 1e-9 * (clock() - start)
            timed_s[index] += elapsed_s
            host_ms[index].append(1e3 * elapsed_s / iterations[index])
            samples_ms[index].append(float(np.median(inference_times.latency(block))))
            traces[index].append(block)
        rounds += 1
        between()
        done = min(min(timed_s) / seconds, rounds / MIN_ROUNDS, 1.0)
        progress(f"timing, {1e-9 * (clock() - begin) * (1 / done - 1):.0f} s left")
    progress("")
    conditions = Conditions(seconds, 1e3 * block_s, untimed, tuple(iterations), rounds)
    return Timing(samples_ms, host_ms, [np.concatenate(blocks) for blocks in traces], conditions)


def in_network(segment: Repeat, whole: Repeat) -> Repeat:
    """``segment`` with its caches as they are in the network ``whole``, or as near as that can be had from outside.

    One that runs again and again finds its weights in the cache, which in the network other layers have taken since.
    One that runs after the whole network finds nothing there, where in the network it finds its input at least. So an
    inference is one of each, and the median of a block lies halfway between.
    """

    def repeat(count: int) -> np.ndarray:
        traces = []
        for _ in range(count):
            whole(1)
            traces.append(segment(2))
        return np.concatenate(traces)

    return repeat


def joined(timings: Sequence[Timing]) -> Timing:
    """Several measurements of the same networks as one; of conditions that differ, those of the last."""
    return Timing(
        [np.concatenate(parts).tolist() for parts in zip(*(timing.samples_ms for timing in timings), strict=True)],
        [np.concatenate(parts).tolist() for parts in zip(*(timing.host_ms for timing in timings), strict=True)],
        [np.concatenate(parts) for parts in zip(*(timing.traces for timing in timings), strict=True)],
        replace(
            timings[-1].conditions,
            seconds=sum(timing.conditions.seconds for timing in timings),
            rounds=sum(timing.conditions.rounds for timing in timings),
        ),
    )


def _warm_up(repeat: Repeat, clock: Callable[[], int]) -> float:
    """Run for the warm-up time, at least 3 times; return the seconds of one inference by the fastest."""
    begin = clock()
    fastest_ns = math.inf
    count = 0
    while count < 3 or clock() - begin < 1e9 * WARM_UP_S:
        start = clock()
        repeat(1)
        fastest_ns = min(fastest_ns, clock() - start)
        count += 1
    return 1e-9 * max(fastest_ns, 100)  # a clock may not see the shortest
