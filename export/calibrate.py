"""The range of each value that is to be quantised, from real images."""

import contextlib
import io
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper
from onnxruntime.quantization.calibrate import HistogramCollector

from layer_folding.errors import CheckError, InputError

from .verifying import open_session

METHODS = ("minmax", "entropy", "percentile")
_BINS = {"entropy": 512, "percentile": 2048}  # of the histograms; the search of entropy takes their square in time
_LEVELS = 128  # of the coarser histograms that entropy compares with: half of int8, as in TensorRT
_PERCENTILE = 99.99
_CHUNK = 32  # images at a time; histograms of all their values are in memory


def largest_values(
    model: onnx.ModelProto, tensors: Sequence[str], images: np.ndarray, method: str = "minmax"
) -> dict[str, float]:
    """The absolute value up to which each of ``tensors`` is to be represented, seen on ``images`` [N,C,H,W].

    "minmax" covers every value, "percentile" 99.99 % of them, and "entropy" loses the least information about their
    distribution (Migacz, 8-bit inference with TensorRT, GTC 2017). The histograms are ONNX Runtime's.

    Raises ``InputError`` for fewer images than a batch, and ``CheckError`` for values that are not finite.
    """
    inputs = {entry.name for entry in model.graph.input}
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    computed = [name for name in tensors if name not in inputs]
    if computed:  # else the outputs stay: a network has to have one
        del shown.graph.output[:]
        shown.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in computed)
    session = open_session(shown)
    [entry] = session.get_inputs()
    fixed = entry.shape[0] if isinstance(entry.shape[0], int) else None
    step = fixed or _CHUNK
    count = len(images) - len(images) % (fixed or 1)  # the last batch would not be full
    if not count:
        raise InputError(f"int8: {len(images)} images to calibrate with, but a batch is {fixed or 1}; give more")
    collector = HistogramCollector(method, method == "percentile", _BINS.get(method), _LEVELS, _PERCENTILE, "same")
    largest = dict.fromkeys(tensors, 0.0)
    for start in range(0, count, step):
        batch = images[start : start + step]
        values = dict(zip(computed, session.run(computed, {entry.name: batch}) if computed else [], strict=True))
        values |= {name: batch for name in tensors if name in inputs}
        for name, value in values.items():
            if not np.isfinite(value).all():
                raise CheckError(f"int8: the value {name} is not finite on the calibration images; check them")
        if method == "minmax":
            for name, value in values.items():
                largest[name] = max(largest[name], float(np.abs(value).max()))
        else:
            with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
                collector.collect({name: [value] for name, value in values.items()})
    if method != "minmax":
        with contextlib.redirect_stdout(io.StringIO()):
            found = collector.compute_collection_result()
        largest = {name: float(max(abs(found[name][0]), abs(found[name][1]))) for name in tensors}
    return largest
