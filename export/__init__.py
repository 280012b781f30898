"""From a checkpoint, or an ONNX file, to a simplified ONNX file in a precision, compared with what it was made from."""

from layer_folding.callable_package import make_callable

from .exporting import Exported, export
from .fp16 import to_fp16
from .int8 import quantise
from .lowering import lower
from .segment_files import write_segments
from .simplifying import simplify
from .verifying import accuracy, check, max_error

__all__ = [
    "Exported", "accuracy", "check", "export", "lower", "max_error", "quantise", "simplify", "to_fp16",
    "write_segments",
]  # fmt: skip

make_callable(__name__, export)
