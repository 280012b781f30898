"""The network before and after, as places on a sheet: two columns of layers, linked where layers merged.

`drawing.svg` turns these into elements; here is only where they are, in pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from layer_folding.fold_results import MergedLayers

from .layer_graph import INPUT, Layer

MOST = 300  # layers that are drawn
ROW, BOX, WIDTH = 30, 22, 264  # of a layer, in pixels
LEFT, RIGHT, TOP = 60, 500, 46  # of the two columns and of the first row
LETTER = 7.2  # width of a letter of a name, in wide fonts
REACH = 9  # of an arc, for each layer that it skips, up to 5 of them
HUES = 3  # groups go through this many colours, so that neighbours differ


@dataclass(frozen=True)
class Box:
    """A layer. ``hue`` is the colour of the group that merges, None outside; ``after`` are (operator, is removed)."""

    x: int
    y: float
    layer: Layer
    hue: int | None
    after: list[tuple[str, bool]]

    @property
    def letters(self) -> int:
        """How many of the layer's name have room beside its shape."""
        return max(8, int((WIDTH - 24) / LETTER - 0.9 * len(self.layer.shape)))


@dataclass(frozen=True)
class Sheet:
    """Everything that is drawn. ``links`` are (path, hue), ``arcs`` and ``lines`` paths of the data."""

    width: int
    height: float
    boxes: list[Box]
    lines: list[str]
    arcs: list[str]
    links: list[tuple[str, int]]


def sheet(before: list[Layer], after: list[Layer], folded: Sequence[MergedLayers]) -> Sheet:
    """Place both networks; ``folded`` are the merges. A merged layer is level with what it was made of."""
    group = {name: number for number, merge in enumerate(folded) for name in [*merge.layers, merge.name]}
    removed = {name for merge in folded for name in merge.activations}
    regular = [float(TOP + place * ROW) for place in range(len(before))]
    rows = {layer.name: y for layer, y in zip(before, regular, strict=True)}
    heights = _level(after, rows, {merge.name: merge.layers for merge in folded})
    boxes, lines, arcs = [], [], []
    for x, layers, ys in ((LEFT, before, regular), (RIGHT, after, heights)):
        for layer, y in zip(layers, ys, strict=True):
            number = group.get(layer.name)
            operators = [(operator, x == LEFT and site in removed) for site, operator in layer.after]
            boxes.append(Box(x, y, layer, None if number is None else number % HUES, operators))
        for place, layer in enumerate(layers):
            lines += [_line(x, ys, place)] if place - 1 in layer.sources else []
            arcs += [_arc(x, ys, source, place, 0) for source in sorted(layer.sources - {place - 1})]
            arcs += [_arc(x, ys, source, place, BOX) for source in sorted(layer.skips)]
    at = {box.layer.name: box.y for box in boxes if box.x == RIGHT}
    links = [
        (_link(rows[layer], at[merge.name]), group[layer] % HUES)
        for merge in folded
        for layer in merge.layers
        if layer in rows and merge.name in at
    ]
    bottom = max((box.y for box in boxes), default=TOP) + ROW
    return Sheet(RIGHT + WIDTH + 124, bottom + 10, boxes, lines, arcs, links)


def _level(layers: list[Layer], rows: dict[str, float], made_of: dict[str, tuple[str, ...]]) -> list[float]:
    """For each of ``layers`` the height of those that it was made of, or one row below the layer before it."""
    heights: list[float] = []
    for layer in layers:
        known = [rows[name] for name in made_of.get(layer.name, (layer.name,)) if name in rows]
        lowest = heights[-1] + ROW if heights else TOP
        heights.append(max(lowest, (min(known) + max(known)) / 2) if known else lowest)
    return heights


def _line(x: int, ys: list[float], place: int) -> str:
    """From the layer above, or from the top of the sheet, to a layer."""
    top = ys[place - 1] + BOX if place else ys[0] - 14
    return f"M{x + 20} {top:g}V{ys[place]:g}"


def _arc(x: int, ys: list[float], source: int, place: int, down: int) -> str:
    """To the left of the column, from below the layer ``source`` to the top of another, or (``down``) its foot."""
    start = ys[0] - 10 if source == INPUT else ys[source] + BOX + 3
    end = ys[place] + down + (3 if down else -3)
    reach = 12 + REACH * min(max(place - source, 1), 5)
    return f"M{x} {start:g}h-4C{x - reach} {start:g} {x - reach} {end:g} {x - 4} {end:g}h4"


def _link(left: float, right: float) -> str:
    """A band from a layer to what it was merged into."""
    a, b, middle = LEFT + WIDTH, RIGHT, (LEFT + WIDTH + RIGHT) / 2 + 20
    upper = f"M{a} {left:g}C{middle:g} {left:g} {middle:g} {right:g} {b} {right:g}"
    lower = f"V{right + BOX:g}C{middle:g} {right + BOX:g} {middle:g} {left + BOX:g} {a} {left + BOX:g}Z"
    return upper + lower
