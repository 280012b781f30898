"""A matplotlib figure as SVG inside the page: its colours are the page's own, so that they follow light and dark."""

import io
import warnings
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

SPACE = "http://www.w3.org/2000/svg"
# What is drawn in the colour of a key is shown in that of the style sheet.
INK, MUTED, RULE, ACCENT = "#010203", "#020304", "#030405", "#040506"
_SHOWN = {INK: "currentColor", MUTED: "var(--muted)", RULE: "var(--rule)", ACCENT: "var(--accent)"}
STYLE: dict[Any, object] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a $ in the name of a layer is a $
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
}


def figure(width: float, height: float) -> Figure:
    """An empty figure, in inches; to be made and drawn within ``matplotlib.rc_context(STYLE)``."""
    return Figure(figsize=(width, height), layout="constrained")


def inline(drawn: Figure, name: str, says: str, titles: Mapping[str, str] | None = None) -> Markup:
    """The ``<svg>`` element of a figure. ``name`` is unique in the page, ``says`` is what readers of the screen hear.

    ``titles`` has, for the gid of a drawn thing, what shows while the pointer is on it.
    """
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # the browser's fonts have it
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        drawn.savefig(text, format="svg", transparent=True, metadata=nothing)
    ElementTree.register_namespace("", SPACE)
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    root = ElementTree.fromstring(text.getvalue())
    titles = titles or {}
    for element in root.iter(f"{{{SPACE}}}g"):
        title = titles.get(element.attrib.pop("id", ""))  # those of matplotlib are the same in every figure
        if title is not None:
            child = ElementTree.Element(f"{{{SPACE}}}title")
            child.text = title
            element.insert(0, child)
    for size in ("width", "height", "version"):
        root.attrib.pop(size, None)
    root.attrib |= {"role": "img", "aria-label": says, "class": "chart"}
    svg = ElementTree.tostring(root, encoding="unicode")
    for drawn_in, shown in _SHOWN.items():
        svg = svg.replace(drawn_in, shown)
    return Markup(svg)
