"""Rows of measurements as a table for people and as JSON values for programs."""

import math
from collections.abc import Mapping, Sequence

from benchmarks.measure import Row
from layer_folding import stats

HEADER = ["benchmark", "case", "contender", "rounds", "median ms [95 % interval]", "speed-up [95 % interval]"]


def rows(results: Mapping[str, Sequence[Row]]) -> list[list[str]]:
    """A header, and a line for every contender of every row; speed-ups are over the first contender of the row."""
    lines = [HEADER]
    for benchmark, measured in results.items():
        for row in measured:
            baseline = next(iter(row.samples_ms.values()))
            for contender, samples in row.samples_ms.items():
                ratio = stats.median_interval(stats.paired_ratios(baseline, samples))
                speedup = "-" if samples is baseline else _interval(*ratio, "x")
                median = _interval(*stats.median_interval(samples))
                lines.append([benchmark, row.name, contender, str(row.rounds), median, speedup])
    return lines


def samples(results: Mapping[str, Sequence[Row]]) -> dict:
    """All samples in ms, in the order A B B A: each round goes through all contenders and back."""
    return {
        benchmark: [{"name": row.name, "rounds": row.rounds, "samples_ms": row.samples_ms} for row in measured]
        for benchmark, measured in results.items()
    }


def _interval(value: float, low: float, high: float, unit: str = "") -> str:
    return f"{_digits(value)}{unit} [{_digits(low)}, {_digits(high)}]"


def _digits(value: float) -> str:
    """Three significant digits, never an exponent."""
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}" if value > 0 else "0"
