"""The network before and after, as places on a sheet: two columns of layers, linked where layers merged.

`drawing.svg` turns these into elements; here is only where they are, in pixels.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from layer_folding.fold_results import MergedLayers

from .layer_graph import INPUT, Layer

MOST = 300  # layers that are drawn
TOP = 46  # of the first row
HUES = 3  # groups go through this many colours, so that neighbours differ


@dataclass(frozen=True)
class Layout:
    """Sizes in pixels: of a ``row`` and the ``box`` in it, the ``width`` of a box, and where the two columns begin.

    ``room`` is left free at the right. ``letter`` is the width of a letter in wide fonts. ``reach`` is that of an arc
    for each layer that it skips. In a ``stacked`` box the shape stands under the name, else beside it.
    """

    name: str
    row: int
    box: int
    width: int
    left: int
    right: int
    room: int
    letter: float
    reach: int
    stacked: bool

    def letters(self, layer: Layer) -> int:
        """How many letters of the layer's name have room."""
        if self.stacked:
            return int((self.width - 10) / self.letter)
        return max(8, int((self.width - 24) / self.letter - 0.9 * len(layer.shape)))


WIDE = Layout("wide", 30, 22, 300, 50, 468, 114, 7.2, 7, stacked=False)
NARROW = Layout("narrow", 46, 36, 150, 26, 204, 0, 5.8, 2, stacked=True)


@dataclass(frozen=True)
class Box:
    """A layer. ``hue`` is the colour of the group that merges, None outside.

    ``after`` are the operators behind it, each with what became of it: "gone" (removed), "kept" (put back) or "".
    ``fitted`` is that of a layer that a fit replaced, or made.
    """

    x: int
    y: float
    layer: Layer
    hue: int | None
    after: list[tuple[str, str]]
    fitted: bool = False


@dataclass(frozen=True)
class Sheet:
    """Everything that is drawn. ``links`` are (path, hue), ``arcs`` and ``lines`` paths of the data."""

    layout: Layout
    width: int
    height: float
    boxes: list[Box]
    lines: list[str]
    arcs: list[str]
    links: list[tuple[str, int]]


def sheet(
    before: list[Layer],
    after: list[Layer],
    folded: Sequence[MergedLayers],
    *,
    kept: Collection[str] = (),
    fitted: Collection[str] = (),
    layout: Layout = WIDE,
) -> Sheet:
    """Place both networks; ``folded`` are the merges. A merged layer is level with what it was made of.

    ``kept`` are activations that were put back, ``fitted`` layers that a fit replaced or made.
    """
    group = {name: number for number, merge in enumerate(folded) for name in [*merge.layers, merge.name]}
    fate = dict.fromkeys(kept, "kept") | {name: "gone" for merge in folded for name in merge.activations}
    regular = [float(TOP + place * layout.row) for place in range(len(before))]
    rows = {layer.name: y for layer, y in zip(before, regular, strict=True)}
    heights = _level(after, rows, {merge.name: merge.layers for merge in folded}, layout.row)
    boxes, lines, arcs = [], [], []
    for x, layers, ys in ((layout.left, before, regular), (layout.right, after, heights)):
        for layer, y in zip(layers, ys, strict=True):
            number = group.get(layer.name)
            known = fate if x == layout.left else {name: what for name, what in fate.items() if what == "kept"}
            operators = [(operator, known.get(site, "")) for site, operator in layer.after]
            hue = None if number is None else number % HUES
            boxes.append(Box(x, y, layer, hue, operators, layer.name in fitted))
        for place, layer in enumerate(layers):
            lines += [_line(layout, x, ys, place)] if place - 1 in layer.sources else []
            arcs += [_arc(layout, x, ys, source, place, 0) for source in sorted(layer.sources - {place - 1})]
            arcs += [_arc(layout, x, ys, source, place, layout.box) for source in sorted(layer.skips)]
    at = {box.layer.name: box.y for box in boxes if box.x == layout.right}
    links = [
        (_link(layout, rows[layer], at[merge.name]), group[layer] % HUES)
        for merge in folded
        for layer in merge.layers
        if layer in rows and merge.name in at
    ]
    bottom = max((box.y for box in boxes), default=TOP) + layout.row
    return Sheet(layout, layout.right + layout.width + layout.room, bottom + 10, boxes, lines, arcs, links)


def _level(layers: list[Layer], rows: dict[str, float], made_of: dict[str, tuple[str, ...]], row: int) -> list[float]:
    """For each of ``layers`` the height of those that it was made of, or one row below the layer before it."""
    heights: list[float] = []
    for layer in layers:
        known = [rows[name] for name in made_of.get(layer.name, (layer.name,)) if name in rows]
        lowest = heights[-1] + row if heights else TOP
        heights.append(max(lowest, (min(known) + max(known)) / 2) if known else lowest)
    return heights


def _line(layout: Layout, x: int, ys: list[float], place: int) -> str:
    """From the layer above, or from the top of the sheet, to a layer."""
    top = ys[place - 1] + layout.box if place else ys[0] - 14
    return f"M{x + 20} {top:g}V{ys[place]:g}"


def _arc(layout: Layout, x: int, ys: list[float], source: int, place: int, down: int) -> str:
    """To the left of the column, from below the layer ``source`` to the top of another, or (``down``) its foot."""
    start = ys[0] - 10 if source == INPUT else ys[source] + layout.box + 3
    end = ys[place] + down + (3 if down else -3)
    reach = 12 + layout.reach * min(max(place - source, 1), 5)
    return f"M{x} {start:g}h-4C{x - reach} {start:g} {x - reach} {end:g} {x - 4} {end:g}h4"


def _link(layout: Layout, left: float, right: float) -> str:
    """A band from a layer to what it was merged into."""
    a, b, box = layout.left + layout.width, layout.right, layout.box
    middle = (a + b) / 2 + (b - a) / 8
    upper = f"M{a} {left:g}C{middle:g} {left:g} {middle:g} {right:g} {b} {right:g}"
    lower = f"V{right + box:g}C{middle:g} {right + box:g} {middle:g} {left + box:g} {a} {left + box:g}Z"
    return upper + lower
