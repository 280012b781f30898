"""What a fit replaces, as text: activations that go, and the shape of the one layer that comes to stand there.

``layer1.0.relu=3x3`` is written in plan.txt, on command lines and in recipes; ``b.expand,b.depthwise=none`` removes two
activations together.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from .errors import InputError

MERGED, DEPTHWISE, NONE = "merged", "depthwise", "none"
LayerShape = int | tuple[int, ...] | str

ADDED = "+"  # begins what a plan says of an activation that is added
_BETWEEN, _EQUALS = ",", "="


@dataclass(frozen=True)
class Choice:
    """Activations that are removed together, by name, and the ``shape`` of the one layer that replaces their region.

    A shape is a kernel size, one number or one a spatial axis; "merged", the size of the exact merge; "depthwise"; or
    "none", a scale and a shift per channel.
    """

    activations: tuple[str, ...]
    shape: LayerShape

    @property
    def names(self) -> str:
        """The activations, as messages name the choice."""
        return " ".join(self.activations)

    @property
    def changes(self) -> tuple[str, ...]:
        """What tells a network with this fit from others by its layers: a fit at the size of the merge looks merged."""
        return self.activations if self.shape == MERGED else (str(self),)

    def __str__(self) -> str:
        """As it is written, which `parse_choice` reads."""
        return f"{_BETWEEN.join(self.activations)}{_EQUALS}{shape_text(self.shape)}"


def shape_text(shape: LayerShape) -> str:
    """How a shape is written: ``3``, ``3x1``, ``none``."""
    return "x".join(map(str, shape)) if isinstance(shape, tuple) else str(shape)


def is_choice(line: str) -> bool:
    """Whether ``line`` of a plan is about a fit, and not about activations to remove or to add."""
    return _EQUALS in line and not any(name.strip().startswith(ADDED) for name in line.split(_BETWEEN))


def refuse_additions(changes: Iterable[str]) -> None:
    """Raise InputError where one of the ``changes`` that a plan makes adds an activation."""
    for change in changes:
        if change.startswith(ADDED):
            raise InputError(
                f"{change}: a fit adds no activation, which takes training; `layer-folding prefold` carries out a plan "
                "without fits, and a plan by importances adds nothing"
            )


def parse_choice(text: str) -> Choice:
    """The choice that ``text`` says. Raises InputError for text that says none."""
    names, equals, shape = text.strip().rpartition(_EQUALS)
    activations = tuple(name.strip() for name in names.split(_BETWEEN))
    if not equals or not all(activations) or len(set(activations)) < len(activations):
        raise InputError(
            f"{text!r}: is no choice of a fit; give ACTIVATION=SHAPE, such as layer1.0.relu=3, or "
            "ACTIVATION,ACTIVATION=SHAPE for activations that are removed together"
        )
    try:
        return Choice(activations, parse_shape(shape.strip()))
    except ValueError as error:
        raise InputError(f"{text!r}: {error}") from error


def parse_shape(shape: str) -> LayerShape:
    """The shape that `shape_text` wrote. Raises ValueError for text that is no shape."""
    if shape in (MERGED, DEPTHWISE, NONE):
        return shape
    if not re.fullmatch(r"[1-9]\d{0,3}(x[1-9]\d{0,3})*", shape, re.ASCII):
        raise ValueError(
            f"{shape[:40]!r} is no shape; give a kernel size such as 3 or 3x1, {MERGED}, {DEPTHWISE} or {NONE}"
        )
    sizes = tuple(map(int, shape.split("x")))
    return sizes if len(sizes) > 1 else sizes[0]
