"""An ONNX network as one of another opset, or of a fixed batch size."""

import onnx
from onnx import version_converter

from layer_folding.errors import InputError

from .onnx_reading import OLDEST_OPSET
from .opsets import step_down

_STEP_DOWN = 17


def with_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """``model`` in ``opset``, by the converters of the onnx package, but for the step from 18 to 17, which they do not
    know (`export.opsets`). Raises InputError where there is no way.
    """
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset <= newest:
        raise InputError(f"--opset {opset}: export takes opsets {OLDEST_OPSET} to {newest}")
    own = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if own == opset:
        return model
    down = opset <= _STEP_DOWN < own
    try:
        converted = version_converter.convert_version(model, _STEP_DOWN + 1 if down else opset)
        if down:
            step_down(converted)
        if down and opset < _STEP_DOWN:
            converted = version_converter.convert_version(converted, opset)
        converted.ir_version = min(converted.ir_version, onnx.helper.find_min_ir_version_for(converted.opset_import))
        onnx.checker.check_model(converted)
        return onnx.shape_inference.infer_shapes(converted, check_type=True, strict_mode=True, data_prop=True)
    except InputError as error:
        raise InputError(f"--opset {opset}: {error}") from error
    except Exception as error:  # the converters raise several types, from C++ too
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].rpartition(" failed: ")[2].rstrip(".")
        raise InputError(f"--opset {opset}: the network cannot be converted ({reason}); leave it out") from error


def with_batch(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """``model``, whose batch size is open, for batches of ``batch``. Raises InputError where the size is fixed."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for entry in fixed.graph.input:
        axes = entry.type.tensor_type.shape.dim
        if not axes or (axes[0].dim_value and axes[0].dim_value != batch):
            size = axes[0].dim_value if axes else "no axis"
            raise InputError(f"--batch {batch}: the batch size of {entry.name} is {size} in the file; leave it out")
        axes[0].dim_value = batch
    for output in fixed.graph.output:
        output.type.tensor_type.ClearField("shape")  # inferred anew, as the values between are
    del fixed.graph.value_info[:]
    try:
        return onnx.shape_inference.infer_shapes(fixed, check_type=True, strict_mode=True, data_prop=True)
    except Exception as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise InputError(f"--batch {batch}: the network does not allow it ({reason}); leave it out") from error
