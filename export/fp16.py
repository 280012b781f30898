"""Half precision: weights and arithmetic in float16, inputs and outputs in float32."""

from collections.abc import Collection

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto, numpy_helper
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

from layer_folding.errors import CheckError, InputError

from .onnx_graph import bypass, seen_elsewhere

_LARGEST = float(np.finfo(np.float16).max)


def to_fp16(model: onnx.ModelProto, keep: Collection[str] = ()) -> onnx.ModelProto:
    """``model`` in float16 with the same float32 interface; ``keep`` names nodes, or operators, that stay in float32.

    Raises as `require_halvable`.
    """
    require_halvable(model, keep)
    return halved(model, keep)


def require_halvable(model: onnx.ModelProto, keep: Collection[str]) -> None:
    """Raise ``CheckError`` that names the first weight that float16 cannot represent, with the node that reads it, and
    ``InputError`` for a node with a body, such as If, and for one that is quantised."""
    for node in model.graph.node:
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise InputError(
                f"fp16: {node.name} ({node.op_type}) has graphs inside, which stay in fp32; use --precision fp32"
            )
    require_floats(model, "fp16")
    _check_range(model, keep)


def halved(model: onnx.ModelProto, keep: Collection[str] = ()) -> onnx.ModelProto:
    """``model`` with float16 in the place of float32, as `to_fp16`; what is quantised stays so, with float16 scales."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)  # the converter works in place
    inputs = {entry.name for entry in copied.graph.input}
    computed = [entry for entry in copied.graph.output if entry.name not in inputs]
    del copied.graph.output[:]
    copied.graph.output.extend(computed)  # the converter would cast an input that is an output, too, from nothing
    names = [node.name for node in model.graph.node if node.name in keep] + _name_constant_outputs(copied.graph)
    operators = [*DEFAULT_OP_BLOCK_LIST, *(name for name in keep if name not in names)]
    converted = convert_float_to_float16(
        copied, keep_io_types=True, op_block_list=operators, node_block_list=names, force_fp16_initializers=False
    )
    graph = gs.import_onnx(converted).toposort()  # it appends its casts
    _join_casts(graph)
    result = gs.export_onnx(graph.cleanup())
    found = {entry.name: entry for entry in (*result.graph.input, *result.graph.output)}
    outputs = [found[entry.name] for entry in model.graph.output]
    del result.graph.output[:]
    result.graph.output.extend(outputs)
    for entry in model.metadata_props:
        result.metadata_props.add(key=entry.key, value=entry.value)
    return result


def require_floats(model: onnx.ModelProto, precision: str) -> None:
    """Raise ``InputError`` that names a node which is quantised: ``precision`` is for networks in fp32."""
    for node in model.graph.node:
        if "QuantizeLinear" in node.op_type or node.op_type.startswith("QLinear") or node.op_type.endswith("Integer"):
            raise InputError(
                f"{precision}: {node.name} ({node.op_type}) is quantised already; give a network in fp32, or keep the "
                "precision with --precision fp32"
            )


def _name_constant_outputs(graph: onnx.GraphProto) -> list[str]:
    """Put a node behind every weight that is an output, so that the output keeps its type; the names of these nodes."""
    outputs = {output.name for output in graph.output}
    added = []
    for tensor in graph.initializer:
        if tensor.name in outputs:
            name = tensor.name
            tensor.name = f"{name}_value"
            for node in graph.node:
                for index, used in enumerate(node.input):
                    if used == name:
                        node.input[index] = tensor.name
            graph.node.append(onnx.helper.make_node("Identity", [tensor.name], [name], name=f"{name}_output"))
            added.append(f"{name}_output")
    return added


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
