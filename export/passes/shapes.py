"""Shapes that a graph computes of tensors whose shapes are known: constants, but for the axes that are left open."""

import numpy as np
import onnx_graphsurgeon as gs

from ..onnx_graph import constant, has_input, known_shape, replace

_COMPUTED = {"Shape", "Slice", "Gather", "Concat", "Squeeze", "Unsqueeze", "Cast"}


def fold_shapes(graph: gs.Graph) -> int:
    """Store what is computed of shapes where it does not depend on an open axis."""
    rewrites = 0
    for node in graph.nodes:
        if node.op not in _COMPUTED or len(node.outputs) != 1 or not node.outputs[0].outputs:
            continue
        [result] = node.outputs
        values = _values(result)
        if values is None or any(isinstance(n, str) for n in values) or result.dtype != np.int64:
            continue
        sizes = np.array(values, np.int64).reshape([len(values)] * len(result.shape))
        stored = gs.Constant(f"{result.name}_known", sizes)
        for reader in list(result.outputs):
            replace(reader.inputs, result, stored)
            rewrites += 1
    return rewrites


def fix_reshapes(graph: gs.Graph) -> int:
    """Give a Reshape whose shape is computed that shape as a constant, where at most one axis of it is not known."""
    rewrites = 0
    for node in graph.nodes:
        if node.op != "Reshape" or constant(node, 1) is not None or node.attrs.get("allowzero", 0):
            continue
        for shape in (_values(node.inputs[1]), known_shape(node.outputs[0])):
            sizes = [n if isinstance(n, int) else -1 for n in shape or [0]]
            if 0 not in sizes and sizes.count(-1) <= 1:
                name = f"{node.outputs[0].name}_shape"
                node.inputs[1] = gs.Constant(name, np.array(sizes, np.int64))
                rewrites += 1
                break
    return rewrites


def _values(tensor: gs.Tensor) -> list[int | str] | None:
    """The elements of a scalar or vector of sizes, a name for the size of an open axis; None where it is no such."""
    if tensor.shape is None or len(tensor.shape) > 1:
        return None
    if isinstance(tensor, gs.Constant):
        return tensor.values.reshape(-1).tolist() if tensor.values.dtype == np.int64 else None
    if len(tensor.inputs) != 1:
        return None
    [node] = tensor.inputs
    if node.op == "Shape":
        shape = known_shape(node.inputs[0])
        return None if shape is None else shape[node.attrs.get("start", 0) : node.attrs.get("end", len(shape))]
    if node.op == "Concat":
        parts = [part for x in node.inputs if (part := _values(x)) is not None]
        return [n for part in parts for n in part] if len(parts) == len(node.inputs) else None
    if node.op not in _COMPUTED or (values := _values(node.inputs[0])) is None:
        return None
    if node.op == "Slice":
        start, end, step = (constant(node, 1), constant(node, 2), constant(node, 4))
        if start is None or end is None or (step is None and has_input(node, 4)):
            return None
        return values[int(start[0]) : int(end[0]) : 1 if step is None else int(step[0])]
    if node.op == "Gather":
        chosen = constant(node, 1)
        places = [] if chosen is None else chosen.reshape(-1).tolist()
        known = chosen is not None and all(-len(values) <= place < len(values) for place in places)
        return [values[place] for place in places] if known else None
    return values if node.op != "Cast" or tensor.dtype == np.int64 else None
