"""The precisions that a network can be written in, since TensorRT 11 reads precision off the graph and nowhere else."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from layer_folding.errors import InputError
from layer_folding.evalset import read_evalset

from .calibrate import METHODS
from .fp16 import halved, require_halvable, to_fp16
from .int8 import quantise

# Largest difference over the largest output that passes the check: rounding through a few hundred layers for the
# floating formats. int8 has 127 steps a value, and what counts is its accuracy: this finds what is broken.
TOLERANCES = {"fp32": 1e-4, "fp16": 1e-2, "int8": 0.5, "int8-fp16": 0.5}
QUANTISED = frozenset({"int8", "int8-fp16"})  # these are calibrated; the second has in fp16 what the first has in fp32
_HALF_SCALES = 19  # the opset from which QuantizeLinear takes fp16


@dataclass(frozen=True)
class Calibration:
    """What int8 is calibrated with: ``images`` float32 [N,C,H,W] as the network takes them, and the method.

    ``seed`` is the one that drew the images from a set, for the record.
    """

    images: np.ndarray
    method: str = METHODS[0]
    seed: int | None = None


def require_calibration(path: Path, option: str = "--calibration") -> None:
    """Raise InputError, which names the ``option``, where there is no file ``path``."""
    if not path.is_file():
        raise InputError(
            f"{option}: {path} is not there; give training images, as `layer-folding pretrain` writes calib.npz"
        )


def read_calibration(path: Path, method: str, count: int, seed: int, option: str = "--calibration") -> Calibration:
    """``count`` images of the set at ``path``, drawn with ``seed``. Raises InputError if there are none to read, which
    names the ``option``."""
    require_calibration(path, option)
    inputs = read_evalset(path).inputs()
    order = np.random.default_rng(seed).permutation(len(inputs))
    return Calibration(inputs[np.sort(order[:count])], method, seed)


def require_scales(precision: str, opset: int) -> None:
    """Raise ``InputError`` where ``opset`` has no float16 scales, which ``precision`` has."""
    if precision == "int8-fp16" and opset < _HALF_SCALES:
        raise InputError(
            f"{precision}: QuantizeLinear takes fp16 from opset {_HALF_SCALES} on, and the network is of opset "
            f"{opset}; give --opset {_HALF_SCALES} or --precision int8"
        )


def convert(
    model: onnx.ModelProto,
    precision: str,
    calibration: Calibration | None,
    keep: Collection[str],
    unquantised: Collection[str] = (),
) -> tuple[onnx.ModelProto, dict[str, object]]:
    """``model``, which is fp32, in ``precision``, and what its metadata say of that.

    ``keep`` names nodes, or operators, that stay in fp32. In the quantised precisions, nodes in ``unquantised`` have
    the precision of the rest. Raises ``InputError`` and ``CheckError`` as the conversions.
    """
    unknown = set(keep) - {name for node in model.graph.node for name in (node.name, node.op_type)}
    if unknown:
        raise InputError(f"--keep: no node or operator is called {', '.join(sorted(unknown))}; nodes have module names")
    if precision == "fp16":
        return to_fp16(model, keep), {"precision": "fp16"}
    if precision in QUANTISED:
        opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
        require_scales(precision, opset)
        if calibration is None:
            raise InputError(f"{precision}: there are no images to calibrate with; give some")
        if len(model.graph.input) > 1:
            raise InputError(
                f"{precision}: the network takes {len(model.graph.input)} inputs, and calibration has images alone"
            )
        images = calibration.images
        shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:]]
        if len(shape) != 3 or any(n not in (0, m) for n, m in zip(shape, images.shape[1:], strict=True)):
            raise InputError(
                f"--calibration: images of {list(images.shape[1:])}, but the network takes {shape}; give its "
                "own training images"
            )
        if precision != "int8":
            require_halvable(model, keep)
        settings = {"method": calibration.method, "images": len(images), "seed": calibration.seed}
        settings |= {"unquantised": list(unquantised)} if unquantised else {}
        quantised = quantise(model, images, calibration.method, [*keep, *unquantised])
        result = quantised if precision == "int8" else halved(quantised, keep)
        return result, {"precision": precision, "calibration": json.dumps(settings)}
    return model, {"precision": "fp32"}
