"""Opset 18 to 17, the last that TensorRT 8.6 reads: torch's exporter stops at 18.

Most operators are the same in both; then nothing is to be done, and the specification says so: a node's operator has
the same version. For those that changed, an adapter writes the node as opset 17 would, or refuses. The converter of the
onnx package is no help: it leaves attributes that opset 17 does not know, and has no adapter for Pad.
"""

from collections.abc import Callable

import numpy as np
import onnx
from onnx import defs, helper, numpy_helper

from layer_folding.errors import InputError


def step_down(model: onnx.ModelProto) -> None:
    """Rewrite ``model`` of opset 18 as one of opset 17, in place; names stay.

    Raises ``InputError`` for an operator that opset 17 cannot express.
    """
    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    constants |= {
        node.output[0]: numpy_helper.to_array(attribute.t)
        for node in graph.node
        for attribute in node.attribute
        if node.op_type == "Constant" and attribute.name == "value"
    }
    shapes = {
        value.name: [dim.dim_value or None for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.HasField("shape")
    }
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.domain == "" and any(_holds_graph(attribute) for attribute in node.attribute):
            raise InputError(f"opset 17: node {node.name} holds a graph of its own; use --opset 18 or higher")
        nodes += [node] if _is_unchanged(node) else _adapt(node, constants, shapes)
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input} | {output.name for output in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    next(entry for entry in model.opset_import if entry.domain == "").version = 17


def _holds_graph(attribute: onnx.AttributeProto) -> bool:
    return attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)


def _is_unchanged(node: onnx.NodeProto) -> bool:
    if node.domain != "":
        return True
    versions = []
    for opset in (17, 18):
        try:
            versions.append(defs.get_schema(node.op_type, opset, "").since_version)
        except defs.SchemaError:
            return False
    return versions[0] == versions[1]


def _adapt(node: onnx.NodeProto, constants: dict[str, np.ndarray], shapes: dict[str, list]) -> list[onnx.NodeProto]:
    adapter = _ADAPTERS.get(node.op_type)
    adapted = adapter and adapter(node, constants, shapes)
    if not adapted:
        raise InputError(f"opset 17 has no {node.op_type} as {node.name} uses it; use --opset 18 or higher")
    return adapted


def _drop_attributes(node: onnx.NodeProto, defaults: dict[str, object]) -> bool:
    """Drop the attributes named in ``defaults``. False where one has another value, which cannot be dropped."""
    for attribute in list(node.attribute):
        if attribute.name in defaults:
            if helper.get_attribute_value(attribute) != defaults[attribute.name]:
                return False
            node.attribute.remove(attribute)
    return True


def _reduce(node: onnx.NodeProto, constants: dict, shapes: dict) -> list[onnx.NodeProto]:
    axes = constants.get(node.input[1]) if len(node.input) > 1 and node.input[1] else np.zeros(0)
    does_nothing = [a for a in node.attribute if a.name == "noop_with_empty_axes" and a.i]
    if axes is None or (axes.size == 0 and does_nothing):
        return []
    for attribute in list(node.attribute):
        if attribute.name == "noop_with_empty_axes":
            node.attribute.remove(attribute)
    del node.input[1:]
    if axes.size:
        node.attribute.append(helper.make_attribute("axes", axes.tolist()))
    return [node]


def _pad(node: onnx.NodeProto, constants: dict, shapes: dict) -> list[onnx.NodeProto]:
    if any(a.name == "mode" and a.s == b"wrap" for a in node.attribute):
        return []
    if len(node.input) < 4 or not node.input[3]:
        del node.input[3:]
        return [node]
    pads, axes, shape = constants.get(node.input[1]), constants.get(node.input[3]), shapes.get(node.input[0])
    if pads is None or axes is None or shape is None:
        return []
    full = np.zeros((2, len(shape)), np.int64)
    full[:, axes] = pads.reshape(2, -1)
    del node.input[3:]
    node.input[1] = f"{node.output[0]}_pads"
    tensor = numpy_helper.from_array(full.reshape(-1), node.input[1])
    return [helper.make_node("Constant", [], [node.input[1]], name=node.input[1], value=tensor), node]


def _split(node: onnx.NodeProto, constants: dict, shapes: dict) -> list[onnx.NodeProto]:
    # Without sizes, opset 17 wants equal parts, where opset 18 gives a smaller last one.
    if len(node.input) < 2 or not node.input[1]:
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
        sizes = {shapes[name][axis] if shapes.get(name) else None for name in node.output}
        if len(sizes) > 1 or None in sizes:
            return []
    for attribute in list(node.attribute):
        if attribute.name == "num_outputs":
            node.attribute.remove(attribute)
    return [node]


def _mish(node: onnx.NodeProto, constants: dict, shapes: dict) -> list[onnx.NodeProto]:
    [x], [y], name = node.input, node.output, node.name
    return [
        helper.make_node("Softplus", [x], [f"{y}_softplus"], name=f"{name}_softplus"),
        helper.make_node("Tanh", [f"{y}_softplus"], [f"{y}_tanh"], name=f"{name}_tanh"),
        helper.make_node("Mul", [x, f"{y}_tanh"], [y], name=name),
    ]


def _with_defaults(**defaults: object) -> Callable[..., list[onnx.NodeProto]]:
    return lambda node, constants, shapes: [node] if _drop_attributes(node, defaults) else []


_ADAPTERS: dict[str, Callable[..., list[onnx.NodeProto]]] = {
    **{
        f"Reduce{kind}": _reduce
        for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
    },
    "Mish": _mish,
    "Pad": _pad,
    "Split": _split,
    "Resize": _with_defaults(antialias=0, keep_aspect_ratio_policy=b"stretch"),
    **dict.fromkeys(("ScatterElements", "ScatterND"), _with_defaults(reduction=b"none")),
}
