"""The types of command line arguments: functions from text to a value that is within its limits."""

import argparse
import math
import re
from collections.abc import Callable, Collection
from typing import TypeVar

Number = TypeVar("Number", int, float)
MOST = 2**32 - 1  # as a seed, every generator takes it; as a count, it can be multiplied with another


def count(text: str) -> int:
    """A whole number from 0 to MOST."""
    return number(text, int, lambda value: 0 <= value <= MOST, f"a whole number from 0 to {MOST}")


def positive_count(text: str) -> int:
    """A whole number from 1 to MOST."""
    return number(text, int, lambda value: 1 <= value <= MOST, f"a whole number from 1 to {MOST}")


def positive(text: str) -> float:
    """A finite number above 0."""
    return number(text, float, lambda value: 0 < value < math.inf, "a number above 0")


def non_negative(text: str) -> float:
    """A finite number, 0 or more."""
    return number(text, float, lambda value: 0 <= value < math.inf, "a number, 0 or more")


def fraction(text: str) -> float:
    """A number from 0 to below 1."""
    return number(text, float, lambda value: 0 <= value < 1, "a number from 0 to below 1")


def share(text: str) -> float:
    """A number from 0 to 1, both included."""
    return number(text, float, lambda value: 0 <= value <= 1, "a number from 0 to 1")


def names(known: Collection[str] | None = None) -> Callable[[str], list[str]]:
    """The type of an argument that lists names between commas; each is one of ``known``, unless this is None."""

    def parse(text: str) -> list[str]:
        given = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
        unknown = [name for name in given if known is not None and name not in known]
        if unknown or not given:
            raise argparse.ArgumentTypeError(
                f"{', '.join(unknown) or 'nothing'} is not one of {', '.join(known or ['NAME,NAME'])}"
            )
        return given

    return parse


def capabilities(text: str) -> list[str]:
    """Compute capabilities between commas: sm86 or 8.6, each as 8.6."""
    found = [re.fullmatch(r"(?:sm)?_?(\d+)\.?(\d)", name.strip(), re.IGNORECASE) for name in text.split(",")]
    if not all(found):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of compute capabilities such as sm86,sm89")
    return list(dict.fromkeys(f"{one[1]}.{one[2]}" for one in found if one))


def number(text: str, kind: type[Number], fits: Callable[[Number], bool], wanted: str) -> Number:
    """``text`` as a ``kind`` that ``fits``; ``wanted`` says which do. Raises ArgumentTypeError for others."""
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not fits(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
    return value
