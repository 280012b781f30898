"""From a checkpoint to a simplified ONNX file that has been compared with PyTorch."""

from export.check import check, max_error
from export.lower import lower
from export.passes import simplify

__all__ = ["check", "lower", "max_error", "simplify"]
