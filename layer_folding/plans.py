"""What a plan says: which layers of a network to merge on a device, and what comes of that. plan.json holds it.

`lf.plan` makes a `Plan`, `python -m fold plan` writes it, `python -m trt_bench bench --plan` compares it with what was
measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from . import records
from .files import write_json
from .fit_choices import ADDED, MERGED, Choice, parse_shape
from .latency_tables import Conditions
from .records import Count, NonNegative, Size

SCHEMA = 3
_DERIVED = ("latency_ms", "error_ms", "speedup", "importance_lost", "removed")


@dataclass(frozen=True)
class PlannedMerge:
    """Layers that become one: ``layers`` and ``activations`` are module paths.

    ``activations`` are those to remove, and what is added (``+VALUE=ACTIVATION``). ``shape`` is that of a fitted layer
    (`fit_choices`); None for an exact merge. ``kernel`` is the one layer's, empty where none is left, and ``macs`` are
    the multiply-accumulates per image before and after. ``apart`` and ``merged`` name the segments of the latency table
    that were compared: they take ``apart_ms`` and ``merged_ms``, and the difference is known to +- ``error_ms`` (95 %).
    ``importance_lost`` is in the unit of the plan.
    """

    layers: tuple[str, ...]
    activations: tuple[str, ...]
    kernel: tuple[Size, ...]
    macs: tuple[Size, Count]
    apart: str
    merged: str
    apart_ms: NonNegative
    merged_ms: NonNegative
    error_ms: NonNegative
    importance_lost: NonNegative
    shape: str | None = None

    def __post_init__(self) -> None:
        if self.shape is not None:
            parse_shape(self.shape)

    @property
    def saves_ms(self) -> float:
        return self.apart_ms - self.merged_ms


@dataclass(frozen=True)
class Loss:
    """What a network loses against the original, measured on some images: ``value`` +- ``error`` (95 %).

    The unit stands beside it (`LossBound`). A negative value is a gain.
    """

    value: float
    error: NonNegative


@dataclass(frozen=True)
class LossBound:
    """What a plan may lose: at most ``most``, in ``unit``. Carried out by fits it loses ``loss``.

    The fits saw ``fitted_images``. The loss was measured on ``images`` others.
    """

    most: NonNegative
    unit: str
    loss: Loss
    images: Count
    fitted_images: Count


@dataclass(frozen=True)
class PlanPoint:
    """One of the best plans: predicted latency, and what it loses.

    Where the plan was carried out by fits, ``divergence`` is the mean of KL(original || fitted) in nats, and
    ``agreement`` the share of images for which both rank the same class first, on images that were not fitted on. Where
    the plan was tried under a bound, ``loss`` is what it loses, tuned, in the unit of the bound.
    """

    latency_ms: NonNegative
    importance_lost: NonNegative
    divergence: NonNegative | None = None
    agreement: NonNegative | None = None
    loss: Loss | None = None


@dataclass(frozen=True)
class Plan:
    """The ``merges`` to make in a network, in the order of its layers, and what they give under ``conditions``.

    The network takes ``original_ms`` +- ``original_error_ms`` (95 %) as it is. ``activations`` is how many it has.
    ``importance`` is the unit of what merges lose. ``budget_ms`` is the latency that was asked for, and ``max_loss``
    the measured loss; None for both is the fastest plan. ``frontier`` has all best plans, the fastest first: no other
    plan is both faster and loses less. ``notes`` are sentences on what the prediction leaves out. ``network`` says what
    was planned, for people.
    """

    conditions: Conditions
    original_ms: NonNegative
    original_error_ms: NonNegative
    activations: Count
    merges: tuple[PlannedMerge, ...]
    importance: str
    budget_ms: NonNegative | None
    frontier: tuple[PlanPoint, ...]
    notes: tuple[str, ...] = ()
    network: str = ""
    max_loss: LossBound | None = None

    def __post_init__(self) -> None:
        if not self.latency_ms > 0:
            raise ValueError(f"the planned network takes {self.latency_ms} ms, and no network takes no time")

    @property
    def latency_ms(self) -> float:
        """Predicted."""
        return self.original_ms - sum(merge.saves_ms for merge in self.merges)

    @property
    def error_ms(self) -> float:
        """Half the 95 % interval of ``latency_ms``, as far as it comes from the measurement of the segments."""
        return math.hypot(self.original_error_ms, *(merge.error_ms for merge in self.merges))

    @property
    def speedup(self) -> float:
        """Predicted: above 1 is faster than the original network."""
        return self.original_ms / self.latency_ms

    @property
    def importance_lost(self) -> float:
        return sum(merge.importance_lost for merge in self.merges)

    @property
    def removed(self) -> tuple[str, ...]:
        """The activations to remove for exact merges, and what is added."""
        return tuple(name for merge in self.merges if merge.shape is None for name in merge.activations)

    @property
    def fits(self) -> tuple[Choice, ...]:
        """The layers to fit."""
        return tuple(
            Choice(merge.activations, parse_shape(merge.shape)) for merge in self.merges if merge.shape is not None
        )

    @property
    def changes(self) -> tuple[str, ...]:
        """What tells the planned network from others by its layers, whether its exact merges are merged or fitted."""
        return *self.removed, *(change for choice in self.fits for change in choice.changes)

    @property
    def additions(self) -> tuple[str, ...]:
        """The activations that are added."""
        return tuple(name for merge in self.merges for name in merge.activations if name.startswith(ADDED))

    @property
    def choices(self) -> tuple[Choice, ...]:
        """All merges as fits, but for ``additions``: an exact merge has the size of the merge as its shape."""
        removed = [tuple(n for n in merge.activations if not n.startswith(ADDED)) for merge in self.merges]
        shapes = [parse_shape(merge.shape or MERGED) for merge in self.merges]
        return tuple(Choice(names, shape) for names, shape in zip(removed, shapes, strict=True) if names)

    @property
    def lines(self) -> tuple[str, ...]:
        """What plan.txt says, a line each: ``removed``, or where a layer is fitted ``choices`` and ``additions``."""
        return (*map(str, self.choices), *self.additions) if self.fits else self.removed


def write_plan(path: str | Path, plan: Plan) -> None:
    """Write plan.json at ``path`` atomically.

    What follows from other values is written for people and other programs, and not read again.
    """
    derived = {name: getattr(plan, name) for name in _DERIVED}
    write_json(path, {**records.encode(plan, SCHEMA), **derived})


def read_plan(path: str | Path) -> Plan:
    """Read a plan.json.

        >>> import layer_folding as lf
        >>> lf.read_plan("run/plan.json").speedup >= 1
        True

    Args:
        path: the plan.json.

    Raises:
        InputError: the file is missing, damaged, or of another version.
    """
    return records.read(path, Plan, SCHEMA, "plan again, with `make plan` or `layer-folding plan`")
