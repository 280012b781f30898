"""From a checkpoint, or an ONNX file, to a simplified ONNX file in a precision, compared with what it was made from."""

from export.check import accuracy, check, max_error
from export.fp16 import to_fp16
from export.int8 import quantise
from export.lower import lower
from export.passes import simplify
from export.segments import Segment, write_segments

__all__ = ["Segment", "accuracy", "check", "lower", "max_error", "quantise", "simplify", "to_fp16", "write_segments"]
