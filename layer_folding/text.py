"""Numbers and tables as text for people."""

from collections.abc import Sequence


def human(count: object) -> str:
    """A count for people: 950, 12.3 k, 1.23 M, 4.56 G; "-" for what is no number."""
    if not isinstance(count, (int, float)):
        return "-"
    value = float(count)
    for unit in ("", " k", " M", " G"):
        if value < 999.5 or unit == " G":
            break
        value /= 1000
    digits = 0 if not unit or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f}{unit}"


def counted(count: int, noun: str) -> str:
    """A number of things: "1 layer", "2 layers"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def milliseconds(value: float) -> str:
    """Milliseconds for people: three decimals or fewer, four below 0.1."""
    return f"{value:.{4 if value < 0.1 else 3 if value < 10 else 2 if value < 100 else 1}f}"


def aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Columns of equal width, the first one flush left and the others flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
