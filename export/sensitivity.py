"""What int8 costs, layer by layer: how far the outputs are off with one layer quantised, and with all but one.

The ranges are calibrated once. What differs from one file to the next is only which layers have their pairs.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from layer_folding.errors import CheckError

from .int8 import quantisable, quantise_only, ranges
from .precision import Calibration
from .verifying import outputs_of

COMPARED = 128  # images that the outputs are compared on, spread evenly over those of the calibration


@dataclass(frozen=True)
class LayerSensitivity:
    """How far the outputs are off with ``layer`` ``alone`` in int8, and with all ``others`` in int8."""

    layer: str
    alone: float
    others: float


@dataclass(frozen=True)
class Sensitivity:
    """How far the outputs are off with ``whole`` the network in int8, and by layer, the most sensitive first.

    All are relative: the root of the summed squares of the differences over that of the outputs, on ``images``. A
    residual addition counts as a layer, since its shortcut is quantised.
    """

    layers: tuple[LayerSensitivity, ...]
    whole: float
    images: int


def sensitivity(
    model: onnx.ModelProto, calibration: Calibration, progress: Callable[[str], None] = lambda text: None
) -> Sensitivity:
    """What int8 costs in ``model``, which is fp32. Takes two runs of ONNX Runtime for each layer.

    ``progress`` is called with a phrase that says what is being done. Raises ``InputError`` where nothing can be
    quantised, and ``CheckError`` where an output is not finite.
    """
    names = quantisable(model)
    largest = ranges(model, calibration.images, calibration.method)
    shown = _shown(calibration.images)
    expected = outputs_of(model, shown)

    def off(chosen: Collection[str]) -> float:
        return _relative(expected, outputs_of(quantise_only(model, chosen, largest), shown))

    layers = []
    for number, name in enumerate(names, start=1):
        progress(f"layer {number} of {len(names)}: {name}")
        layers.append(LayerSensitivity(name, off({name}), off(set(names) - {name})))
    whole = off(names)
    progress("")
    return Sensitivity(tuple(sorted(layers, key=lambda each: -each.alone)), whole, len(shown))


def by_cost(
    model: onnx.ModelProto,
    largest: Mapping[str, float],
    calibration: Calibration,
    names: Sequence[str],
    progress: Callable[[str], None] = lambda text: None,
) -> list[str]:
    """``names``, layers of ``model`` with the ranges ``largest``, by what each costs alone in int8: the most first."""
    shown = _shown(calibration.images)
    expected = outputs_of(model, shown)
    costs = {}
    for number, name in enumerate(names, start=1):
        progress(f"sensitivity of layer {number} of {len(names)}: {name}")
        costs[name] = _relative(expected, outputs_of(quantise_only(model, {name}, largest), shown))
    progress("")
    return sorted(names, key=lambda name: -costs[name])


def _shown(images: np.ndarray) -> np.ndarray:
    count = min(COMPARED, len(images))
    return images[np.arange(count) * len(images) // count]


def _relative(expected: Sequence[np.ndarray], actual: Sequence[np.ndarray]) -> float:
    """The largest relative difference of an output: each counts by its own size, such as scores beside boxes."""
    return max(_relative_output(*map(np.float64, pair)) for pair in zip(expected, actual, strict=True))


def _relative_output(expected: np.ndarray, actual: np.ndarray) -> float:
    error, size = (float(np.square(x).sum()) for x in (actual - expected, expected))
    if not np.isfinite(error) or not np.isfinite(size):
        raise CheckError("int8: an output is not finite on the calibration images; check them")
    return float(np.sqrt(error / size)) if size else float(error > 0)
