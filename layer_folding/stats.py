"""Statistics of latency samples: percentiles, bootstrap intervals, paired speed-up, verdict. Only numpy."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Samples = Sequence[float] | np.ndarray
Verdict = Literal["faster", "slower", "no significant difference"]

RESAMPLES = 2000
CONFIDENCE = 0.95
# A network that is loaded again lies elsewhere in memory, and is faster or slower by some tenths of a percent for as
# long as it stays there (`python -m benchmarks.timing` shows it). No number of samples of one load tells of that, so
# the intervals of results include it. Of two networks it makes 1 %: less is never called a difference.
PLACEMENT = 0.007
FLOOR = 1e-3  # of a median: the lowest end of an interval


@dataclass(frozen=True)
class Spread:
    """Mean, range and nearest-rank percentiles, in the unit of the samples."""

    mean: float
    p50: float
    min: float
    max: float
    p90: float
    p95: float
    p99: float


@dataclass(frozen=True)
class Latency(Spread):
    """The latency of a network, ms: the median of its samples with a 95 % interval, the spread of all inferences."""

    median: float
    ci95: tuple[float, float]

    def __post_init__(self) -> None:
        check_interval(self.median, self.ci95)
        if min(self.mean, self.p50, self.min) <= 0:
            raise ValueError("a latency that is not above 0")


@dataclass(frozen=True)
class Speedup:
    """How often as fast the second of two networks is (above 1: faster), the 95 % interval, and what follows."""

    speedup: float
    ci95: tuple[float, float]
    verdict: Verdict

    def __post_init__(self) -> None:
        check_interval(self.speedup, self.ci95)

    def __str__(self) -> str:
        return f"{self.speedup:.3f}x [{self.ci95[0]:.3f}, {self.ci95[1]:.3f}]"


@dataclass(frozen=True)
class Comparison(Speedup):
    """The speed-up of the network ``candidate`` over the network ``baseline``, at one batch size."""

    baseline: str
    candidate: str
    batch: int


def check_interval(value: float, interval: tuple[float, float]) -> None:
    """Raise ValueError unless ``value`` is above 0 and ``interval`` is (low, high), both above 0."""
    low, high = interval
    if not (value > 0 and 0 < low <= high):
        raise ValueError(f"{value:.6g} with the interval [{low:.6g}, {high:.6g}] is nothing that was measured")


def percentile(samples: Samples, percent: float) -> float:
    """Nearest-rank percentile: the smallest sample that at least ``percent`` % of ``samples`` do not exceed.

    This is trtexec's definition; the result is always one of the samples. ``percent`` in (0, 100].
    """
    ordered = np.sort(np.asarray(samples, dtype=np.float64))
    rank = math.ceil(percent * len(ordered) / 100)
    return float(ordered[max(rank, 1) - 1])


def median_interval(samples: Samples, seed: int = 0) -> tuple[float, float, float]:
    """Median of ``samples`` and its bootstrap 95% interval: (median, low, high), in the unit of the samples.

    Runs of neighbouring samples are resampled together (circular block bootstrap), because what disturbs a latency
    usually lasts longer than one sample, and single draws would give too small an interval. Runs are as long as
    neighbours stay alike, at least n^(1/3) and at most n/10 samples. It covers the true median in about 95% of cases
    from 10 independent samples on; where each sample takes after the one before (correlation 0.8), in about 73% with 10
    and 90% from 200 on. Raises ValueError without samples.
    """
    values = np.asarray(samples, dtype=np.float64)
    n = len(values)
    if n == 0:
        raise ValueError("no samples")
    run = max(math.ceil(n ** (1 / 3)), min(_alike(values), n // 10))
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, n, size=(RESAMPLES, math.ceil(n / run)))
    indices = (starts[:, :, None] + np.arange(run)).reshape(RESAMPLES, -1)[:, :n] % n
    medians = np.median(values[indices], axis=1)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(medians, [tail, 100 - tail])
    median = float(np.median(values))
    wider = _few_runs(n / run)
    return median, median - wider * max(median - float(low), 0), median + wider * max(float(high) - median, 0)


def _few_runs(runs: float) -> float:
    """How much wider an interval must be, as few runs scatter too little: 1 for many runs, 1.6 for 4.

    Student's t over the normal quantile at 95 % (Cornish-Fisher expansion, to the second order).
    """
    freedom = max(runs - 1, 1)
    return 1 + 1.21 / freedom + 1.44 / freedom**2


def _alike(values: np.ndarray) -> int:
    """For how many samples neighbours stay on the same side of the median: twice the autocorrelation time."""
    side = np.sign(values - np.median(values))
    n, power = len(side), float(side @ side)
    total = 0.0
    for lag in range(1, n // 2):
        correlation = float(side[:-lag] @ side[lag:]) / power if power else 0.0
        if correlation <= 2 / math.sqrt(n):  # no more than chance
            break
        total += correlation
    return math.ceil(2 * (1 + 2 * total))


def summary(samples: Samples, inferences: np.ndarray | None = None, seed: int = 0) -> Latency:
    """Median and interval of ``samples``, the spread of all ``inferences``.

    A sample is the median of a block of inferences (all in ms), and the blocks are equally long; so the median is never
    above the 90th percentile of the inferences. Without ``inferences``, the samples are taken for them.
    """
    median, low, high = median_interval(samples, seed)
    interval = _with_placement(median, low, high, PLACEMENT)
    return Latency(**vars(spread(samples if inferences is None else inferences)), median=median, ci95=interval)


def spread(inferences: Samples) -> Spread:
    """The `Spread` of ``inferences``."""
    return Spread(
        mean=float(np.mean(inferences)),
        p50=percentile(inferences, 50),
        min=float(np.min(inferences)),
        max=float(np.max(inferences)),
        p90=percentile(inferences, 90),
        p95=percentile(inferences, 95),
        p99=percentile(inferences, 99),
    )


def paired_ratios(baseline: Samples, candidate: Samples) -> np.ndarray:
    """Baseline time over candidate time for each round of two passes (there and back: A B B A).

    Both take samples in order of measurement, two for each round. What drifts linearly in time cancels within a round.
    """
    rounds_a = np.asarray(baseline, dtype=np.float64).reshape(-1, 2).sum(axis=1)
    rounds_b = np.asarray(candidate, dtype=np.float64).reshape(-1, 2).sum(axis=1)
    return rounds_a / rounds_b


def verdict(low: float, high: float) -> Verdict:
    """What the interval of a speed-up says: ``faster`` above 1, ``slower`` below 1, otherwise neither."""
    if low > 1:
        return "faster"
    if high < 1:
        return "slower"
    return "no significant difference"


def compare(baseline: Samples, candidate: Samples, seed: int = 0) -> Speedup:
    """Speed-up of the candidate (above 1: it is faster), its 95% interval, and the verdict."""
    speedup, low, high = median_interval(paired_ratios(baseline, candidate), seed)
    interval = _with_placement(speedup, low, high, math.sqrt(2) * PLACEMENT)
    return Speedup(speedup, interval, verdict(*interval))


def _with_placement(value: float, low: float, high: float, placement: float) -> tuple[float, float]:
    """An interval around ``value`` widened by an independent relative uncertainty; it stays above 0, as times do."""
    below, above = (math.hypot(value - end, placement * value) for end in (low, high))
    return max(value - below, FLOOR * value), value + above


def compare_apart(baseline: Samples, candidate: Samples, seed: int = 0) -> Speedup:
    """As `compare`, for samples of two measurements that were not interleaved: the ratio of their medians.

    The interval is that of independent medians, from their own intervals, so it knows nothing of what changed on the
    machine between the two.
    """
    first, second = summary(baseline, seed=seed), summary(candidate, seed=seed)
    ratio = first.median / second.median
    margin = math.hypot(*((each.ci95[1] - each.ci95[0]) / 2 / each.median for each in (first, second)))
    low, high = ratio * math.exp(-margin), ratio * math.exp(margin)
    return Speedup(ratio, (low, high), verdict(low, high))


def variation(samples: Samples) -> float:
    """Coefficient of variation: standard deviation over mean."""
    return float(np.std(samples) / np.mean(samples))


def drift(samples: Samples) -> float:
    """Relative change of the median from the first third of the samples to the last; positive: it became slower."""
    third = max(len(samples) // 3, 1)
    return float(np.median(samples[-third:]) / np.median(samples[:third]) - 1)
