"""Rows as a table for people and as a document for programs."""

import math
from collections.abc import Mapping, Sequence

import torch

from benchmarks.measure import Row
from trt_bench import device, stats

SCHEMA = 1
HEADER = ("benchmark", "case", "contender", "rounds", "median ms [95% interval]", "speed-up [95% interval]")


def table(results: Mapping[str, Sequence[Row]]) -> str:
    """A line for every contender of every row; speed-ups are over the first contender of the row."""
    lines = [HEADER]
    for benchmark, rows in results.items():
        for row in rows:
            baseline = next(iter(row.samples_ms.values()))
            for contender, samples in row.samples_ms.items():
                ratio = stats.median_interval(stats.paired_ratios(baseline, samples))
                speedup = "-" if samples is baseline else _interval(*ratio, "x")
                median = _interval(*stats.median_interval(samples))
                lines.append((benchmark, row.name, contender, str(row.rounds), median, speedup))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    align = (str.ljust, str.ljust, str.ljust, str.rjust, str.rjust, str.rjust)
    return "\n".join("  ".join(f(cell, w) for f, cell, w in zip(align, line, widths, strict=True)) for line in lines)


def document(results: Mapping[str, Sequence[Row]]) -> dict:
    """All samples in ms, and the machine and versions they were taken with."""
    return {
        "schema": SCHEMA,
        "device": {**device.describe(), "torch": torch.__version__, "threads": torch.get_num_threads()},
        "order": "A B B A: each round goes through all contenders and back",
        "benchmarks": {
            benchmark: [{"name": row.name, "rounds": row.rounds, "samples_ms": row.samples_ms} for row in rows]
            for benchmark, rows in results.items()
        },
    }


def _interval(value: float, low: float, high: float, unit: str = "") -> str:
    return f"{_digits(value)}{unit} [{_digits(low)}, {_digits(high)}]"


def _digits(value: float) -> str:
    """Three significant digits, never an exponent."""
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}" if value > 0 else "0"
