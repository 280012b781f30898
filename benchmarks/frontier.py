"""Trained networks by the way that made them shallower: what each way loses at which speed-up."""

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.notes import Note

GOALS = (1.0, 1.2, 1.4, 1.6, 1.9)  # times as fast
WAYS = ("fits", "exact merges, planned", "gates with affine maps", "gates with the identity")


@dataclass(frozen=True)
class Point:
    """Runs of one configuration, which differ by their seeds: lost accuracy in points, and speed-ups where measured."""

    network: str
    way: str
    runs: tuple[str, ...]
    lost: tuple[float, ...]
    speedups: tuple[float, ...]

    @property
    def speedup(self) -> float | None:
        """The mean; None where no latency was measured."""
        return statistics.mean(self.speedups) if self.speedups else None


def way(note: Note) -> str:
    """One of `WAYS`, by the commands of a run."""
    commands = " ".join(note.commands)
    if re.search(r"-m train fit ", commands):
        return "fits"
    if "--remove " in commands:
        return "exact merges, planned"
    # the first version had gates with the identity only
    first = str(note.versions.get("layer-folding", "")).startswith("0.1")
    return WAYS[3] if first or "--linear identity" in commands else WAYS[2]


def points(runs: Mapping[str, Note]) -> list[Point]:
    """A point for each configuration: by network, by way in the order of `WAYS`, and by speed-up."""
    groups: dict[tuple[str, str, tuple[str, ...]], list[str]] = {}
    for name, note in runs.items():
        without_seed = tuple(re.sub(r" --seed \d+", "", command) for command in note.commands)
        start = f"{note.model}, {100 * note.accuracy['original']:.2f} %"
        groups.setdefault((start, way(note), without_seed), []).append(name)
    found = [
        Point(
            network,
            kind,
            tuple(names),
            tuple(100 * (runs[name].accuracy["folded"] - runs[name].accuracy["original"]) for name in names),
            tuple(c.speedup for name in names if (c := runs[name].comparison) is not None),
        )
        for (network, kind, _), names in groups.items()
    ]
    return sorted(found, key=lambda point: (point.network, WAYS.index(point.way), point.speedup or 0.0))


def rows(runs: Mapping[str, Note]) -> Sequence[Sequence[str]]:
    """A header, and a line for each point; a spread is from the least to the most."""
    found = [["network, before", "way", "speed-up", "accuracy, points", "seeds", "runs"]]
    for point in points(runs):
        links = ", ".join(f"[{name}](#{name})" for name in point.runs)
        speedup = "not measured" if point.speedup is None else f"{point.speedup:.2f}x"
        found.append([point.network, point.way, speedup, _spread(point.lost), str(len(point.runs)), links])
    return found


def _spread(values: Sequence[float]) -> str:
    mean = f"{statistics.mean(values):+.2f}"
    return mean if len(values) == 1 else f"{mean} [{min(values):+.2f}, {max(values):+.2f}]"


def goals(runs: Mapping[str, Note]) -> Sequence[Sequence[str]]:
    """A header, and for each network and each of `GOALS` the point that loses least among those that are as fast."""
    found = [["network, before", "goal", "way", "reached", "accuracy, points"]]
    known = points(runs)
    for network in dict.fromkeys(point.network for point in known):
        for goal in GOALS:
            fast = [p for p in known if p.network == network and p.speedup is not None and p.speedup >= goal]
            if fast:
                least = max(fast, key=lambda point: statistics.mean(point.lost))
                found.append([network, f"{goal:.1f}x", least.way, f"{least.speedup:.2f}x", _spread(least.lost)])
    return found
