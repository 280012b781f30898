"""Read the small files that Linux has in place of calls; what is missing or refuses is None."""

from pathlib import Path


def text(path: Path) -> str | None:
    """The file's text without the zero and the newline at its end."""
    try:
        return path.read_text(errors="replace").strip("\0 \n")
    except OSError:
        return None


def number(path: Path, scale: float = 1.0) -> float | None:
    """The number in the file times ``scale``."""
    try:
        return float(text(path) or "") * scale
    except ValueError:
        return None
