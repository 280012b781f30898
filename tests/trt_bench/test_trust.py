"""Timer and statistics together on a simulated noisy machine: does the verdict hold as often as it should?

The machine scatters, is interrupted, is slow for a while, and drifts; a network that is loaded again is a little faster
or slower. `python -m benchmarks.timing` asks the same of a real machine.
"""

import numpy as np
import pytest

from layer_folding import stats
from layer_folding.trt_bench import inference_times, timer

TRIALS = 20


class NoisyMachine:
    """Networks of given cost on a clock that only they advance."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.now_ns = 0
        self.slow_until_s = 0.0

    def clock(self):
        return self.now_ns

    def load(self, cost_s):
        cost_s *= 1 + 0.002 * self.rng.standard_normal()  # where it lies in memory: 0.3 % between two, as measured

        def repeat(count):
            now_s = 1e-9 * self.now_ns
            if self.rng.random() < 0.01:  # another program wakes up
                self.slow_until_s = now_s + self.rng.exponential(0.05)
            factor = 1.4 if now_s < self.slow_until_s else 1.0
            costs_s = cost_s * factor * (1 + 0.02 * now_s) * self.rng.lognormal(0, 0.03, count)
            costs_s += (self.rng.random(count) < 0.01) * 0.002  # interrupted
            stamps = self.now_ns + np.cumsum([0, *(1e9 * costs_s).astype(int)])
            self.now_ns = int(stamps[-1])
            return inference_times.of_host(stamps.tolist())

        return repeat

    def compare(self, *costs_s):
        timing = timer.measure([self.load(cost) for cost in costs_s], seconds=1.0, clock=self.clock)
        return timing, stats.compare(*timing.samples_ms)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("factor", "verdict"), [(1.0, "no significant difference"), (1.05, "slower"), (0.95, "faster")]
)
@pytest.mark.parametrize("cost_s", [0.0005, 0.02])
def test_the_verdict_holds_in_19_of_20(factor, verdict, cost_s):
    results = [NoisyMachine(seed).compare(cost_s, factor * cost_s)[1] for seed in range(TRIALS)]
    assert sum(result.verdict == verdict for result in results) >= 19
    assert sum(result.ci95[0] <= 1 / factor <= result.ci95[1] for result in results) >= 18


@pytest.mark.slow
def test_a_second_measurement_overlaps_the_first_in_19_of_20():
    overlaps = 0
    for seed in range(TRIALS):
        intervals = []
        for again in (0, 100):
            timing, _ = NoisyMachine(seed + again).compare(0.001, 0.001)
            intervals.append(stats.summary(timing.samples_ms[0], inference_times.latency(timing.traces[0])).ci95)
        (low, high), (low_again, high_again) = intervals
        overlaps += low <= high_again and low_again <= high
    assert overlaps >= 19
