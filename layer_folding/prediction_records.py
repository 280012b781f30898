"""What a plan predicted beside what was measured, as bench.json records it."""

from dataclasses import dataclass

from .stats import Comparison, check_interval

MISS = 0.10  # a prediction that is further off is traced to the merges


@dataclass(frozen=True)
class PlannedLatency:
    """The plan's own latencies, ms: of the original network, and of the planned one with its error."""

    original: float
    planned: float
    error: float


@dataclass(frozen=True)
class SegmentPair:
    """The names of the two segments that a merge was judged by."""

    apart: str
    merged: str


@dataclass(frozen=True)
class PredictedMerge:
    """What a merge saves, or ``count`` merges that are alike together, as fractions of the original network's time.

    ``planned`` +- ``error`` is by the table; ``again`` with its interval ``ci95`` was timed after a miss.
    """

    layers: tuple[str, ...]  # of the first
    count: int
    segments: SegmentPair
    planned: float
    error: float
    again: float | None = None
    ci95: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError("a merge without layers")
        if (self.again is None) != (self.ci95 is None):
            raise ValueError("again and ci95 belong together")

    @property
    def now(self) -> float:
        """What the merge saves as it was timed last."""
        return self.planned if self.again is None else self.again


@dataclass(frozen=True)
class Prediction:
    """The speed-up that the plan ``plan`` predicts, with its interval, and the measurement that it is compared with.

    ``obstacle`` says why the two cannot be compared, and is None where they are. ``miss`` is the predicted speed-up
    over the measured one, less 1.
    """

    plan: str
    speedup: float
    ci95: tuple[float, float]
    obstacle: str | None
    latency_ms: PlannedLatency | None = None
    measured: Comparison | None = None
    miss: float | None = None
    merges: tuple[PredictedMerge, ...] = ()

    def __post_init__(self) -> None:
        check_interval(self.speedup, self.ci95)
        if self.obstacle is None and (self.measured is None or self.miss is None):
            raise ValueError("it has no obstacle, and no measurement either")
