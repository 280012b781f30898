"""Remove nodes that return what they are given, and reshapes that nobody sees."""

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from ..onnx_graph import bypass, constant, has_input, is_only_reader, known_shape, remove, replace, seen_elsewhere

_RESHAPES = {"Reshape", "Flatten", "Squeeze", "Unsqueeze"}
_NEUTRAL = {"Add": 0, "Sub": 0, "Mul": 1, "Div": 1}


def remove_noops(graph: gs.Graph) -> int:
    """Remove what does nothing: Identity, Dropout outside of training, casts to the same type, padding by nothing,
    reshapes to the same shape, additions of 0, concatenations of one value, and their like.
    """
    elsewhere = seen_elsewhere(graph)
    rewrites = 0
    for node in list(graph.nodes):
        if node.inputs and node.outputs and _does_nothing(node, elsewhere):
            if node.op in ("Add", "Mul") and isinstance(node.inputs[0], gs.Constant):
                node.inputs.reverse()
            rewrites += bypass(graph, node, elsewhere)
    return rewrites


def _does_nothing(node: gs.Node, elsewhere: set[str]) -> bool:
    match node.op:
        case "Identity":
            return True
        case "Dropout":
            mode = constant(node, 2)
            is_used = any(mask.outputs or mask.name in elsewhere for mask in node.outputs[1:])
            return not is_used and (not has_input(node, 2) or (mode is not None and not mode.any()))
        case "Cast":
            source = node.inputs[0].dtype
            return source is not None and source == onnx.helper.tensor_dtype_to_np_dtype(node.attrs["to"])
        case "Pad":
            amounts = constant(node, 1)
            return amounts is not None and not amounts.any()
        case "Transpose":
            order = node.attrs.get("perm")
            return order is not None and list(order) == sorted(order)
        case "Concat" | "Sum" | "Max" | "Min" | "Mean":
            return len(node.inputs) == 1
        case "Reshape" | "Flatten" | "Expand" | "Tile" | "ReduceMax" | "ReduceMean" | "ReduceMin" | "ReduceSum":
            return _keeps_shape(node)
        case "Slice":
            steps = constant(node, 4)
            return _keeps_shape(node) and (not has_input(node, 4) or (steps is not None and bool((steps == 1).all())))
        case "Add" | "Sub" | "Mul" | "Div":
            return _adds_nothing(node)
    return False


def _keeps_shape(node: gs.Node) -> bool:
    before, after = known_shape(node.inputs[0]), known_shape(node.outputs[0])
    return before is not None and before == after


def _adds_nothing(node: gs.Node) -> bool:
    places = [1, 0] if node.op in ("Add", "Mul") else [1]
    for place in places:
        values, other = constant(node, place), node.inputs[1 - place]
        if values is None or isinstance(other, gs.Constant) or not (values == _NEUTRAL[node.op]).all():
            continue
        if values.size == 1 and values.ndim <= len(other.shape or ()):
            return True
        before, after = known_shape(other), known_shape(node.outputs[0])
        return before is not None and before == after
    return False


def squeeze_reductions(graph: gs.Graph) -> int:
    """Write a reduction over axes of one element each as the Squeeze that it is (from opset 13 on)."""
    rewrites = 0
    for node in graph.nodes:
        if node.op not in ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum") or node.attrs.get("keepdims", 1):
            continue
        axes = node.attrs["axes"] if "axes" in node.attrs else constant(node, 1)
        shape = known_shape(node.inputs[0])
        if graph.opset >= 13 and shape is not None and axes is not None and len(axes):
            if any(shape[axis] != 1 for axis in axes):
                continue
            node.op, node.attrs = "Squeeze", {}
            node.inputs = [node.inputs[0], gs.Constant(f"{node.outputs[0].name}_axes", np.array(axes, np.int64))]
            rewrites += 1
    return rewrites


def join_reshapes(graph: gs.Graph) -> int:
    """Let a Reshape read what the reshape before it read."""
    elsewhere = seen_elsewhere(graph)
    rewrites = 0
    for node in list(graph.nodes):
        shape = constant(node, 1)
        if node.op != "Reshape" or shape is None or not shape.all() or len(node.inputs[0].inputs) != 1:
            continue
        [before] = node.inputs[0].inputs
        if before.op in _RESHAPES and is_only_reader(node, before.outputs[0], elsewhere):
            replace(node.inputs, node.inputs[0], before.inputs[0])
            remove(graph, before)
            rewrites += 1
    return rewrites
