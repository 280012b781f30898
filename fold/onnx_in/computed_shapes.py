"""Shapes that an ONNX graph computes while it runs, as constants: what `x.view(x.size(0), -1)` becomes.

A shape that is a value of a tensor cannot be traced. But it is known before, up to the batch, from the shapes around.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from .skeletons import without_weights

_Shape = list[int | str]  # of each axis its size, or the name of a size that is open; "" where nothing is known


def fix_shapes(model: onnx.ModelProto) -> None:
    """Give each Reshape in ``model`` a constant shape, where it follows from the shapes around; drop what computed it.

    What is open, such as the batch, stays open: 0 copies an axis of the input, and -1 is what is left.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    computed = [
        index
        for index, node in enumerate(model.graph.node)
        if node.op_type == "Reshape" and node.input[1] not in constants and not _allows_zero(node)
    ]
    if not computed:
        return
    bare = without_weights(model)  # which are large, and say nothing here
    fixed = []
    for node in (bare.graph.node[index] for index in computed):
        shapes = _shapes(bare)  # anew each time, since a shape that is constant says more of those behind it
        shape = _fixed(shapes.get(node.input[0], []), shapes.get(node.output[0], []))
        if shape is not None:
            fixed.append(bare.graph.initializer.add())
            fixed[-1].CopyFrom(numpy_helper.from_array(np.array(shape, np.int64), f"{node.output[0]}_shape"))
            node.input[1] = fixed[-1].name
    for tensor in fixed:  # a size that is copied is baked in when the network is traced, one that is left is not
        shape = numpy_helper.to_array(tensor).tolist()
        if -1 not in shape and shape.count(0) == 1:
            shape[shape.index(0)] = -1
            tensor.CopyFrom(numpy_helper.from_array(np.array(shape, np.int64), tensor.name))
    if fixed:
        model.graph.initializer.extend(fixed)
        del model.graph.node[:]
        model.graph.node.extend(_read(bare.graph))


def _allows_zero(node: onnx.NodeProto) -> bool:
    return any(each.name == "allowzero" and each.i for each in node.attribute)


def _shapes(model: onnx.ModelProto) -> Mapping[str, _Shape]:
    """The shapes of all values, as far as they can be inferred."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for entry in bare.graph.input:
        for number, axis in enumerate(entry.type.tensor_type.shape.dim):
            if not axis.WhichOneof("value"):
                axis.dim_param = f"{entry.name}_{number}"
    del bare.graph.value_info[:]
    for entry in bare.graph.output:  # its sizes may have other names than those of the input
        entry.type.tensor_type.ClearField("shape")
    graph = onnx.shape_inference.infer_shapes(bare, data_prop=True).graph
    return {
        entry.name: [axis.dim_value or axis.dim_param for axis in entry.type.tensor_type.shape.dim]
        for entry in (*graph.input, *graph.value_info, *graph.output)
        if entry.type.tensor_type.HasField("shape")
    }


def _fixed(before: _Shape, after: _Shape) -> list[int] | None:
    """The constant shape that makes ``before`` into ``after``; None where more than one size is not known."""
    opened = Counter(size for size in before if not isinstance(size, int))
    left = Counter(size for size in after if not isinstance(size, int))
    if (
        "" not in (*opened, *left) and opened < left and (left - opened).total() == 1
    ):  # the same sizes are open on both sides, so the rest is known
        (unknown,) = left - opened
        known = [math.prod(size for size in shape if isinstance(size, int)) for shape in (before, after)]
        after = [known[0] // known[1] if size == unknown else size for size in after]
    copied = [bool(size) and before[axis : axis + 1] == [size] for axis, size in enumerate(after)]
    fixed = [size if isinstance(size, int) else -1 + same for size, same in zip(after, copied, strict=True)]
    return fixed if fixed and fixed.count(-1) <= 1 else None


def _read(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes of ``graph`` whose values are still read."""
    read = {entry.name for entry in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):  # each stands behind what it reads
        if read & set(node.output):
            read |= set(_names_in(node))
            kept.append(node)
    return kept[::-1]


def _names_in(node: onnx.NodeProto) -> Iterator[str]:
    """What ``node`` reads, and what the graphs in it read, such as the branches of an If."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            yield from (entry.name for entry in graph.output)
            for inner in graph.node:
                yield from _names_in(inner)
