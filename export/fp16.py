"""Half precision: weights and arithmetic in float16, inputs and outputs in float32."""

from collections.abc import Collection

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto, numpy_helper
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

from export.graph import bypass, seen_elsewhere
from fold.errors import CheckError

_LARGEST = float(np.finfo(np.float16).max)


def to_fp16(model: onnx.ModelProto, keep: Collection[str] = ()) -> onnx.ModelProto:
    """``model`` in float16 with the same float32 interface; ``keep`` names nodes, or operators, that stay in float32.

    Raises ``CheckError`` that names the first weight that float16 cannot represent, with the nodes that read it.
    """
    _check_range(model, keep)
    copied = onnx.ModelProto()
    copied.CopyFrom(model)  # the converter works in place
    names = [node.name for node in model.graph.node if node.name in keep]
    operators = [*DEFAULT_OP_BLOCK_LIST, *(name for name in keep if name not in names)]
    converted = convert_float_to_float16(
        copied, keep_io_types=True, op_block_list=operators, node_block_list=names, force_fp16_initializers=False
    )
    graph = gs.import_onnx(converted).toposort()  # it appends its casts
    _join_casts(graph)
    result = gs.export_onnx(graph.cleanup())
    for entry in model.metadata_props:
        result.metadata_props.add(key=entry.key, value=entry.value)
    return result


def _check_range(model: onnx.ModelProto, keep: Collection[str]) -> None:
    readers = {
        name: node
        for node in model.graph.node
        if not {node.name, node.op_type} & set(keep) and node.op_type != "Clip"  # its bounds may be beyond all values
        for name in node.input
    }
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.name in readers:
            largest = np.abs(numpy_helper.to_array(tensor)).max(initial=0)
            if not largest <= _LARGEST:
                raise CheckError(
                    f"fp16: {tensor.name} goes up to {largest:.3g}, beyond float16 ({_LARGEST:.0f}); "
                    f"--keep {readers[tensor.name].name}"
                )


def _join_casts(graph: gs.Graph) -> None:
    """Between two nodes that both stay in float32, do not round to float16 and back."""
    elsewhere = seen_elsewhere(graph)
    for node in list(graph.nodes):
        if node.op != "Cast" or node.attrs["to"] != TensorProto.FLOAT or not node.inputs[0].inputs:
            continue
        before = node.inputs[0].inputs[0]
        if before.op == "Cast" and before.attrs["to"] == TensorProto.FLOAT16 and before.inputs[0].dtype == np.float32:
            node.inputs[0] = before.inputs[0]
            bypass(graph, node, elsewhere)
