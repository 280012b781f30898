"""The precisions that a network can be written in, since TensorRT 11 reads precision off the graph and nowhere else."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from export.calibrate import METHODS
from export.fp16 import to_fp16
from export.int8 import quantise
from fold.errors import InputError
from fold.evalset import read_evalset

# Largest difference over the largest output that passes the check: rounding through a few hundred layers for the
# floating formats. int8 has 127 steps a value, and what counts is its accuracy: this finds what is broken.
TOLERANCES = {"fp32": 1e-4, "fp16": 1e-2, "int8": 0.5}


@dataclass(frozen=True)
class Calibration:
    """What int8 is calibrated with: ``count`` images of the set at ``path``, drawn with ``seed``; and the method."""

    path: Path
    method: str = METHODS[0]
    count: int = 512
    seed: int = 0

    def images(self) -> np.ndarray:
        """The images as the network takes them, float32 [N,C,H,W]. Raises ``InputError`` if there are none to read."""
        if not self.path.is_file():
            raise InputError(
                f"--calibration: {self.path} is not there; give training images, as `python -m train pretrain` writes "
                "calib.npz"
            )
        inputs = read_evalset(self.path).inputs()
        order = np.random.default_rng(self.seed).permutation(len(inputs))
        return inputs[np.sort(order[: self.count])]


def convert(
    model: onnx.ModelProto, precision: str, calibration: Calibration, keep: Collection[str]
) -> tuple[onnx.ModelProto, dict[str, object]]:
    """``model``, which is fp32, in ``precision``, and what its metadata say of that.

    ``keep`` names nodes, or operators, that stay in fp32. Raises ``InputError`` and ``CheckError`` as the conversions.
    """
    unknown = set(keep) - {name for node in model.graph.node for name in (node.name, node.op_type)}
    if unknown:
        raise InputError(f"--keep: no node or operator is called {', '.join(sorted(unknown))}; nodes have module names")
    if precision == "fp16":
        return to_fp16(model, keep), {"precision": "fp16"}
    if precision == "int8":
        if len(model.graph.input) > 1:
            raise InputError(
                f"int8: the network takes {len(model.graph.input)} inputs, and calibration has images alone"
            )
        images = calibration.images()
        shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:]]
        if len(shape) != 3 or any(n not in (0, m) for n, m in zip(shape, images.shape[1:], strict=True)):
            raise InputError(
                f"--calibration: images of {list(images.shape[1:])}, but the network takes {shape}; give its own"
            )
        settings = {"method": calibration.method, "images": len(images), "seed": calibration.seed}
        quantised = quantise(model, images, calibration.method, keep)
        return quantised, {"precision": "int8", "calibration": json.dumps(settings)}
    return model, {"precision": "fp32"}
