"""The recipe of a network: how to get from nothing to the network whose weights are in a file.

A checkpoint carries its recipe, and so does an ONNX file that was made from a checkpoint. Both carry it as JSON, which
is written and read here. `fold.replaying` carries a recipe out.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from . import records
from .errors import InputError
from .fit_choices import Choice, parse_choice
from .stages import NETWORKS, PREFOLD, PRETRAIN

SCHEMA = 2
MOST_AXES, MOST_VALUES = 4, 2**28  # of one image: channels and up to three axes, and 1 GiB of float32


@dataclass(frozen=True)
class Network:
    """What builds a network: ``spec`` is its name (`fold.model_names`), and ``arguments`` are JSON values."""

    spec: str
    arguments: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class FitRecord:
    """A layer that was fitted: the ``layers`` that it replaces, and ``name``, the path of what stands for them.

    ``choice`` says which activations it stands for, and its shape (`fit_choices`). ``error`` is the relative error of
    its output on images that were not fitted on.
    """

    choice: str
    layers: tuple[str, ...]
    name: str
    error: float

    def __post_init__(self) -> None:
        """Raise ValueError where ``choice`` says none."""
        try:
            parse_choice(self.choice)
        except InputError as error:
            raise ValueError(str(error)) from error


@dataclass(frozen=True)
class Recipe:
    """How to rebuild a network, and what was measured on the way.

    Args:
        stage: the network that this is, one of `stages.NETWORKS`.
        network: what builds the original network.
        input_shape: [C, *spatial] of one image.
        classes: the names of the classes, by label; none for a network that imitates the outputs of its original.
        average_pooling: average poolings merge like convolutions.
        fitted: the layers that were fitted. Everything below was done to the network that has these layers.
        gate: which activations have gates, "foldable" or "all" (`fold.gating.linearize`); None where none has.
        linear: what stands in place of removed activations, and what gates open to, "affine" or "identity".
        gates: how far each gate is open; of an original network, the gates that its weights came with.
        planned: the changes that the gates carry out on a schedule (`fold.graph.changes`); empty where they learn.
        removed: the activations that are removed, and the additions.
        kept: open gates whose activation stays, with the reason.
        hoisted: the layers of each region whose padding was hoisted; None where hoisting was left out.
        folded: each merged layer with the layers that it replaces.
        accuracy: the fraction of test images classified right, at each of `stages.STEPS` that was measured; without
            ``classes`` how much of the original network's outputs is reproduced, 0 to 1.
    """

    stage: str
    network: Network
    input_shape: tuple[int, ...]
    classes: tuple[str, ...] = ()
    average_pooling: bool = False
    fitted: tuple[FitRecord, ...] = ()
    gate: str | None = None
    linear: str = "identity"
    gates: Mapping[str, float] = field(default_factory=dict)
    planned: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    kept: Mapping[str, str] = field(default_factory=dict)
    hoisted: tuple[tuple[str, ...], ...] | None = None
    folded: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    accuracy: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise ValueError for values that no network can have."""
        if self.stage not in NETWORKS:
            raise ValueError(f"stage is {self.stage!r}, not one of {', '.join(NETWORKS)}")
        has_none = self.gate is None
        if has_none == (self.stage == PREFOLD.network) and not (has_none and self.fitted):
            raise ValueError(f"gate is {self.gate!r}, and stage is {self.stage!r}")
        if self.fitted and self.stage == PRETRAIN.network:
            raise ValueError(f"stage is {self.stage!r}, and layers were fitted")
        if self.linear not in ("affine", "identity"):
            raise ValueError(f"linear is {self.linear!r}, not affine or identity")
        check_shape(self.input_shape)

    @property
    def choices(self) -> tuple[Choice, ...]:
        """What was fitted."""
        return tuple(parse_choice(record.choice) for record in self.fitted)

    @property
    def changes(self) -> tuple[str, ...]:
        """What was removed, added and fitted, as `plans.Plan.changes` has it."""
        return *self.removed, *(change for choice in self.choices for change in choice.changes)


def check_shape(shape: Sequence[int]) -> None:
    """Raise ValueError unless ``shape`` can be [C, *spatial] of an image."""
    fits = 1 <= len(shape) <= MOST_AXES and min(shape) >= 1 and math.prod(shape) <= MOST_VALUES
    if not fits:
        raise ValueError(f"input_shape is {str(list(shape))[:60]}, not the [C, H, W] of an image")


def to_json(recipe: Recipe) -> str:
    """The JSON text of ``recipe``."""
    return json.dumps(records.encode(recipe, SCHEMA), allow_nan=False)


def from_json(text: str) -> Recipe:
    """The recipe whose JSON is ``text``. Raises ValueError that says what is wrong."""
    return records.parse(Recipe, text, SCHEMA)
