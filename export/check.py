"""Does the ONNX file compute what the PyTorch model computes?"""

import contextlib
import copy
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from fold.errors import CheckError

TOLERANCE = 1e-4  # of the output scale: float32 rounding through a few hundred layers stays well below
_BATCHES = (1, 5)  # one image is the special case of many shape computations; 5 is neither 1 nor the traced batch of 2
_CHUNK = 64  # images of the given set at a time


def check(
    model: nn.Module,
    onnx_model: str | Path | onnx.ModelProto,
    images: np.ndarray | None = None,
    tolerance: float = TOLERANCE,
) -> float:
    """Return ``max_error``, which is also the smallest tolerance that passes.

    Raises ``CheckError`` above ``tolerance``, and where ONNX Runtime cannot run the model.
    """
    error = max_error(model, onnx_model, images)
    if not error <= tolerance:  # a NaN fails
        raise CheckError(
            f"ONNX Runtime and PyTorch differ by {error:.2e} of the output scale, above the tolerance {tolerance:.0e}"
        )
    return error


def max_error(model: nn.Module, onnx_model: str | Path | onnx.ModelProto, images: np.ndarray | None = None) -> float:
    """Largest absolute difference of ONNX Runtime (CPU) from PyTorch, over the largest absolute output, in float32.

    Both see normal noise in batches of 1 and 5, and ``images``, float32 [N,C,H,W], where given. The model is taken as
    in eval mode and not modified. NaN where an output is not finite. Raises ``CheckError`` where ONNX Runtime cannot
    load or run the model.
    """
    model = copy.deepcopy(model).cpu().eval()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong arrives as an exception
    source = onnx_model.SerializeToString() if isinstance(onnx_model, onnx.ModelProto) else str(onnx_model)
    with _reported():
        session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    [entry] = session.get_inputs()
    noise = np.random.default_rng(0)
    batches = [noise.standard_normal((size, *entry.shape[1:]), dtype=np.float32) for size in _BATCHES]
    if images is not None:
        batches += [images[start : start + _CHUNK] for start in range(0, len(images), _CHUNK)]
    difference = scale = np.float32(0)
    for batch in batches:
        with _reported():
            [output] = session.run(None, {entry.name: batch})
        with torch.no_grad():
            expected = model(torch.from_numpy(batch)).numpy()
        if output.shape != expected.shape:
            raise CheckError(f"ONNX Runtime gives shape {list(output.shape)}, PyTorch {list(expected.shape)}")
        with np.errstate(invalid="ignore"):  # inf - inf
            difference = np.maximum(difference, np.abs(output - expected).max())  # keeps a NaN, which max() may lose
        scale = np.maximum(scale, np.abs(expected).max())
    if not np.isfinite(difference) or not np.isfinite(scale):
        return math.nan
    return float(difference / scale) if scale else float(difference)


@contextlib.contextmanager
def _reported() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # ONNX Runtime has one class per status and no base class for them
        raise CheckError(f"ONNX Runtime cannot run the model: {str(error).splitlines()[0]}") from error
