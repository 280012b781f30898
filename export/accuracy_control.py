"""Int8 within a drop of accuracy: the layers that cost most stay out of it until the bound holds.

As NNCF's accuracy control: layers are ranked by what each costs alone, and taken back in this order. The number of
layers is doubled, then bisected, since every step is a measurement of accuracy.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import onnx

from layer_folding.errors import CheckError
from layer_folding.evalset import EvalSet

from .int8 import quantisable, quantise_only, ranges
from .precision import Calibration
from .sensitivity import by_cost
from .verifying import accuracy


@dataclass(frozen=True)
class Controlled:
    """The ``layers`` that stay in float, the most sensitive first, and by how many points the accuracy ``drop``s."""

    layers: tuple[str, ...]
    drop: float


def control(
    model: onnx.ModelProto,
    calibration: Calibration,
    evalset: EvalSet,
    max_drop: float,
    *,
    keep: Collection[str] = (),
    progress: Callable[[str], None] = lambda text: None,
) -> Controlled:
    """The fewest layers of ``model``, which is fp32, that have to stay in float for int8 to lose ``max_drop`` points.

    The accuracy of ``model`` and of the quantised network is measured on ``evalset``. ``keep`` names nodes, or
    operators, that stay in float in any case. Raises ``InputError`` as `quantise`, and ``CheckError`` where the bound
    holds only without int8.
    """
    names = quantisable(model, keep)
    largest = ranges(model, calibration.images, calibration.method)
    progress("accuracy in fp32")
    before = accuracy(model, evalset)

    def drop(chosen: Collection[str]) -> float:
        return 100 * (before - accuracy(quantise_only(model, chosen, largest), evalset))

    progress("accuracy in int8")
    drops = {0: drop(names)}
    ranked: list[str] = []
    if drops[0] > max_drop:
        ranked = by_cost(model, largest, calibration, names, progress)
    low, high = -1, 0  # how many stay in float: too few, and enough
    while drops[high] > max_drop:
        if high == len(names) - 1:
            raise CheckError(
                f"int8: the accuracy drops by {drops[high]:.2f} points even with {high} of {len(names)} layers in "
                f"float, above the {max_drop:g} of --max-drop; give a larger drop, another --method, or fp16"
            )
        low, high = high, min(max(1, 2 * high), len(names) - 1)
        drops[high] = _said(high, drop(ranked[high:]), progress)
    while high - low > 1:
        middle = (low + high) // 2
        drops[middle] = _said(middle, drop(ranked[middle:]), progress)
        low, high = (low, middle) if drops[middle] <= max_drop else (middle, high)
    progress("")
    return Controlled(tuple(ranked[:high]), drops[high])


def _said(count: int, drop: float, progress: Callable[[str], None]) -> float:
    progress(f"{count} layers in float: {drop:.2f} points lost")
    return drop
