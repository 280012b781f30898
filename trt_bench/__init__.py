"""Latency of ONNX networks on the device: build, run, time side by side, report.

    from layer_folding.trt_bench import bench

    result = bench(["original.onnx", "folded.onnx"])
    result.speedup, result.ci95, result.verdict

Runs with Python 3.10, numpy and onnxruntime, or with the TensorRT of a Jetson; never imports PyTorch.
Command line: ``python -m trt_bench --help``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import layer_folding  # noqa: F401  says which Python is needed, before anything else is imported

__all__ = ["bench"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: a board that is being set up may lack numpy."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(".benchmarking", __name__), name)


if TYPE_CHECKING:
    from .benchmarking import bench as bench
