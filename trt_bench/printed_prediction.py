"""What a plan said beside what was measured, as lines for people."""

from layer_folding.prediction_records import MISS, PredictedMerge, Prediction
from layer_folding.stats import Comparison
from layer_folding.text import aligned

OFF = 0.01  # of the original network's time: a smaller difference does not explain a miss


def prediction_lines(prediction: Prediction) -> list[str]:
    """Predicted and measured speed-up; where they are far apart, which merges are to blame."""
    measured, miss = prediction.measured, prediction.miss
    if prediction.obstacle or measured is None or miss is None:
        return [f"prediction: {prediction.plan} is not compared: {prediction.obstacle}"]
    low, high = prediction.ci95
    line = (
        f"prediction: {prediction.speedup:.3f}x [{low:.3f}, {high:.3f}] by {prediction.plan}, {measured} measured: "
        f"predicted {abs(miss):.1%} too {'fast' if miss > 0 else 'slow'}"
    )
    if abs(miss) <= MISS:
        return [line]
    return [f"warning: {line}; what was off:", "", *_merges(prediction, measured), ""]


def _merges(prediction: Prediction, measured: Comparison) -> list[str]:
    """What each merge saves, by the table and timed again, those that differ most first."""
    merges = sorted(prediction.merges, key=lambda merge: -abs(merge.now - merge.planned))
    saved = 1 - 1 / measured.speedup
    rest = saved - sum(merge.now for merge in merges)
    lines = aligned(
        [
            ("saves, of the original's time", "by the table", "timed again", ""),
            *map(_row, merges),
            ("what they save in the network but not alone", "", f"{rest:+.1%}", "off" if abs(rest) > OFF else ""),
            ("the whole network", f"{1 - 1 / prediction.speedup:.1%}", f"{saved:.1%}", ""),
        ]
    )
    if any(merge.again is None for merge in merges):
        lines.append("some merges could not be timed again: `make table` writes their segments beside the plan")
    if any(map(_is_off, merges)):
        lines.append("where a merge is off: measure the table again in the state that counts, and plan again")
    if abs(rest) > OFF:
        lines.append(
            "in the network but not alone: by caches and layouts, or because other work on the machine slows down long "
            "inferences more than short ones"
        )
    return lines


def _row(merge: PredictedMerge) -> tuple[str, ...]:
    alike = f" and {merge.count - 1} like it" if merge.count > 1 else ""
    name = " .. ".join(dict.fromkeys((merge.layers[0], merge.layers[-1])))
    again = "-" if merge.again is None else f"{merge.again:.1%} +- {_spread(merge):.1%}"
    off = "off" if _is_off(merge) else ""
    return f"{name}{alike}", f"{merge.planned:.1%} +- {merge.error:.1%}", again, off


def _is_off(merge: PredictedMerge) -> bool:
    return abs(merge.now - merge.planned) > max(merge.error + _spread(merge), OFF)


def _spread(merge: PredictedMerge) -> float:
    """Half the interval of what the merge was found to save."""
    return 0.0 if merge.ci95 is None else (merge.ci95[1] - merge.ci95[0]) / 2
