"""The names of segments, which the planner gives and the bench reads.

``st,end``           one merged layer in place of the layers st + 1 to end of the network
``active st,end``    the same with an activation added behind it
``fit3x3 st,end``    a fitted layer with a 3x3 kernel in place of these layers
``depthwise st,end`` the same with a layer of that shape; ``none st,end`` with none
``apart st,end``     these layers as they are in the network; ``apart 0,N`` with the largest N is the whole network

Layers are counted in the order of the graph. Where branches give two spans the same numbers, the second's name ends in
`` also 1``.
"""

import re
from collections.abc import Iterable

from .fit_choices import LayerShape, shape_text

MERGED, ACTIVE, APART = "", "active ", "apart "


def fitted(shape: LayerShape) -> str:
    """The kind of segments with a fitted layer of ``shape``."""
    text = shape_text(shape)
    return f"fit{text} " if text[0].isdigit() else f"{text} "


def segment_name(kind: str, st: int, end: int, known: Iterable[str] = ()) -> str:
    """The name of a segment of ``kind``, one of `MERGED`, `ACTIVE`, `APART` and `fitted`, that is none of ``known``."""
    name = f"{kind}{st},{end}"
    taken = sum(other.partition(" also ")[0] == name for other in known)
    return f"{name} also {taken}" if taken else name


def merged_span(name: str) -> tuple[int, int] | None:
    """(st, end) of a segment that is one merged layer and a row of latency.csv; None for another segment."""
    match = re.fullmatch(r"(\d+),(\d+)", name)
    return (int(match[1]), int(match[2])) if match else None


def whole_network(names: Iterable[str]) -> str | None:
    """The name among ``names`` that is the whole network; None where there is none."""
    ends = {name: int(match[1]) for name in names if (match := re.fullmatch(rf"{APART}0,(\d+)", name))}
    return max(ends, key=ends.__getitem__, default=None)
