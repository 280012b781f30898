"""From a checkpoint to a simplified ONNX file that has been compared with PyTorch."""

from export.check import check, max_error
from export.evalset import EvalSet, read_evalset
from export.lower import lower
from export.passes import simplify

__all__ = ["EvalSet", "check", "lower", "max_error", "read_evalset", "simplify"]
