import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from layer_folding import stats

samples = hnp.arrays(np.float64, st.integers(1, 60), elements=st.floats(0.01, 1000))


@given(samples, st.one_of(st.integers(1, 100), st.sampled_from([0.5, 99.9])))
def test_percentile_is_the_nearest_rank(values, percent):
    ordered = sorted(values)
    result = stats.percentile(values, percent)
    assert result in values
    assert sum(value <= result for value in ordered) >= percent * len(ordered) / 100 - 1e-9
    assert sum(value < result for value in ordered) < percent * len(ordered) / 100


@pytest.mark.parametrize("percent", [1, 25, 50, 90, 95, 99, 100])
def test_percentile_agrees_with_numpy(percent):
    values = np.random.default_rng(0).permutation(41).astype(float)  # no rank is whole, so that rounding cannot differ
    assert stats.percentile(values, percent) == np.percentile(values, percent, method="inverted_cdf")


@given(samples)
def test_summary_is_ordered(values):
    summary = stats.summary(values)
    low, high = summary.ci95
    assert low <= summary.median <= high
    assert summary.min <= summary.median <= summary.max
    assert low < summary.median * 0.996 and high > summary.median * 1.004  # where it lies in memory
    assert summary.median <= summary.p90 <= summary.p95 <= summary.p99 <= summary.max
    assert summary.min <= summary.mean * (1 + 1e-12) and summary.mean <= summary.max * (1 + 1e-12)


def test_interval_covers_the_true_median_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(100):
        _, low, high = stats.median_interval(rng.lognormal(0, 0.1, 100), seed)
        covered += low <= 1 <= high
    assert covered >= 85


def test_interval_is_repeatable_and_needs_samples():
    values = np.random.default_rng(0).lognormal(0, 0.1, 50)
    assert stats.median_interval(values, 3) == stats.median_interval(values, 3)
    with pytest.raises(ValueError, match="no samples"):
        stats.median_interval([])


@pytest.mark.parametrize(
    ("factor", "verdict"), [(0.97, "faster"), (1.03, "slower"), (1.0, "no significant difference")]
)
def test_comparison(factor, verdict):
    rng = np.random.default_rng(0)
    right = covered = 0
    for seed in range(40):
        baseline, candidate = rng.lognormal(0, 0.05, (2, 400))
        result = stats.compare(baseline, factor * candidate, seed)
        assert result.speedup == pytest.approx(1 / factor, rel=0.02)
        right += result.verdict == verdict
        covered += result.ci95[0] <= 1 / factor <= result.ci95[1]
    assert right >= 34 and covered >= 34


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ((1.001, 1.1), "faster"),
        ((0.9, 0.999), "slower"),
        ((0.9, 1.1), "no significant difference"),
        ((1.0, 1.1), "no significant difference"),
        ((0.9, 1.0), "no significant difference"),
    ],
)
def test_verdict_needs_an_interval_without_one(interval, verdict):
    assert stats.verdict(*interval) == verdict


def test_linear_drift_cancels_in_paired_ratios():
    time = 1 + 0.5 * np.arange(400) / 400  # A B B A: everything becomes 50% slower
    baseline = time.reshape(-1, 4)[:, [0, 3]].ravel()
    candidate = time.reshape(-1, 4)[:, [1, 2]].ravel()
    np.testing.assert_allclose(stats.paired_ratios(baseline, candidate), 1, rtol=1e-12)


def test_drift_and_variation():
    assert stats.drift([1.0] * 10 + [1.5] * 10 + [2.0] * 10) == pytest.approx(1)
    assert stats.drift([2.0] * 10 + [1.5] * 10 + [1.0] * 10) == pytest.approx(-0.5)
    assert stats.drift([3.0]) == 0 == stats.variation([3.0, 3.0])
    assert stats.variation([1.0, 3.0]) == pytest.approx(0.5)
