"""Numbers in the page: each is written with where in the run's files it stands and its full value."""

from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from typing import Any

from markupsafe import Markup

from layer_folding.text import human, milliseconds

SHOWN: dict[str, Callable[[Any], str]] = {
    "plain": str,
    "count": human,
    "points": lambda value: f"{100 * value:.2f}",
    "percent": lambda value: f"{100 * value:.2f} %",
    "ratio": lambda value: f"{value:.3f}×",
    "ms": milliseconds,
    "error": lambda value: f"{value:.1e}",
    "relative": lambda value: f"{value:.3f}",
    "share": lambda value: f"{100 * value:+.1f} %",
}


class Figures:
    """Shows the numbers of one run's ``files`` (records by name without suffix), found by their path in them."""

    def __init__(self, files: Mapping[str, object]):
        self.files = files

    def __call__(self, how: str, *path: str | int) -> Markup:
        """The number at ``path``, such as ("bench", "comparison", "speedup"), shown as SHOWN says; "–" for None."""
        value: Any = self.files
        for step in path:
            value = getattr(value, step) if is_dataclass(value) and isinstance(step, str) else value[step]
        if value is None:
            return Markup("–")
        where = "/".join(map(str, path))
        return Markup('<data value="{}" data-from="{}">{}</data>').format(repr(value), where, SHOWN[how](value))

    def interval(self, how: str, *path: str | int) -> Markup:
        """The two numbers at ``path`` as [low, high]."""
        return Markup("[{}, {}]").format(self(how, *path, 0), self(how, *path, 1))

    def change(self, how: str, *path: str | int) -> Markup:
        """The two numbers at ``path`` as before → after."""
        return Markup("{} → {}").format(self(how, *path, 0), self(how, *path, 1))
