"""An ONNX graph in the operators of opset 17, which is what onnx2torch knows.

onnx2torch 1.5 knows few operators that came after opset 17. Most of these say nothing new: they take further types.
What moved from an attribute to an input is moved back. `allowzero` is dropped where no size is 0. Shapes that the graph
computes become constants (`computed_shapes.fix_shapes`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from layer_folding.errors import InputError

from .computed_shapes import fix_shapes

_OPSET = 17
# After opset 17 these took further types, or got an option that is off by default.
_SAME = {
    "AveragePool", "Cast", "CastLike", "Constant", "ConstantOfShape", "Equal", "Flatten", "Identity", "If", "Loop",
    "Pad", "Reshape", "Resize", "ScatterElements", "ScatterND", "Shape", "Size", "Squeeze", "Transpose", "Unsqueeze",
}  # fmt: skip
_REDUCTIONS = {
    f"Reduce{name}" for name in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
}
_NEW_OPTIONS = {"AveragePool": "dilations", "Resize": "axes", "Pad": "axes"}


def plainer(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` in opset 17 or older; every node has a name that a module can have. ``model`` is not modified.

    Raises InputError that names a node whose operator has another meaning in opset 17.
    """
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    graph = plain.graph
    _take_out_constants(graph)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for entry in plain.opset_import:
        if entry.domain in ("", "ai.onnx"):
            for node in graph.node:
                _make_plainer(node, entry.version, constants)
            entry.version = min(entry.version, _OPSET)
    fix_shapes(plain)
    _name_nodes(graph)
    return plain


def _take_out_constants(graph: onnx.GraphProto) -> None:
    """Make initialisers of the tensors in Constant nodes, as other exporters write them."""
    kept = []
    for node in graph.node:
        tensor = node.attribute[0].t if node.op_type == "Constant" and node.attribute[0].name == "value" else None
        if tensor is None:
            kept.append(node)
        else:
            graph.initializer.add().CopyFrom(tensor)
            graph.initializer[-1].name = node.output[0]
    del graph.node[:]
    graph.node.extend(kept)


def _make_plainer(node: onnx.NodeProto, opset: int, constants: Mapping[str, np.ndarray]) -> None:
    kind = node.op_type
    if kind == "Reshape" and _option(node, "allowzero") and 0 not in constants.get(node.input[1], [0]):
        _drop(node, "allowzero")
    if opset <= _OPSET or node.domain not in ("", "ai.onnx"):
        return
    if kind in _REDUCTIONS and len(node.input) > 1:
        axes = constants.get(node.input[1])
        if axes is None:
            raise InputError(f"node {node.name}: {kind} over axes that are computed; give a file with fixed axes")
        node.attribute.append(onnx.helper.make_attribute("axes", [int(axis) for axis in axes]))
        del node.input[1:]
    elif kind == "Split" and _option(node, "num_outputs") is not None and len(node.input) < 2:
        _drop(node, "num_outputs")  # equal parts are what opset 17 makes without it
    elif kind in _NEW_OPTIONS and (_option(node, _NEW_OPTIONS[kind]) or len(node.input) > 3 + (kind == "Resize")):
        raise InputError(
            f"node {node.name}: {kind} with {_NEW_OPTIONS[kind]} is newer than opset {_OPSET}; give the file "
            f"in opset {_OPSET}"
        )
    elif kind not in _SAME and kind not in _REDUCTIONS and _is_newer(kind, opset):
        raise InputError(
            f"node {node.name}: {kind} has another meaning after opset {_OPSET}; give the file in opset {_OPSET}, as "
            "`layer-folding export FILE -o OTHER --opset 17` makes it"
        )


def _is_newer(kind: str, opset: int) -> bool:
    """Whether the operator ``kind`` changed between opsets 17 and ``opset``, or came then."""
    try:
        return onnx.defs.get_schema(kind, opset).since_version > _OPSET
    except onnx.defs.SchemaError:
        return False  # onnx2torch says that it does not know it


def _option(node: onnx.NodeProto, name: str) -> object:
    return next((onnx.helper.get_attribute_value(each) for each in node.attribute if each.name == name), None)


def _drop(node: onnx.NodeProto, name: str) -> None:
    kept = [each for each in node.attribute if each.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Name each node by what it was called, in letters, digits and underscores; numbered where two have one name."""
    seen: Counter[str] = Counter()
    for node in graph.node:
        plain = "".join(c if c.isalnum() and c.isascii() else "_" for c in node.name).strip("_") or node.op_type
        name = f"n{plain}" if plain[0].isdigit() else plain
        seen[name] += 1
        node.name = name if seen[name] == 1 else f"{name}_{seen[name] - 1}"
