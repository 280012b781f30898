"""Fewer nodes that only move elements: transpositions, slices and concatenations in a row as one."""

import numpy as np
import onnx_graphsurgeon as gs

from ..onnx_graph import constant, has_input, is_only_reader, known_shape, only_reader, remove, replace, seen_elsewhere

Cuts = dict[int, tuple[int, int, int]]  # (start, end, step) of each axis that a Slice cuts


def join_transposes(graph: gs.Graph) -> int:
    """Two transpositions in a row as one; one between a Reshape that joins leading axes and one that parts them again
    as one of all axes; and one that moves nothing but axes of size 1 as the Reshape that it is.
    """
    elsewhere = seen_elsewhere(graph)
    return sum(
        _as_reshape(node) or _onto_transpose(graph, node, elsewhere) or _between_reshapes(graph, node, elsewhere)
        for node in list(graph.nodes)
        if node.op == "Transpose" and "perm" in node.attrs and node.inputs
    )


def _as_reshape(node: gs.Node) -> bool:
    shape, order = known_shape(node.inputs[0]), list(node.attrs["perm"])
    if shape is None or 0 in shape:
        return False
    moved = [axis for axis in order if shape[axis] != 1]
    sizes = [n if isinstance(n, int) else -1 for n in (shape[axis] for axis in order)]
    if moved != sorted(moved) or order == sorted(order) or sizes.count(-1) > 1:
        return False
    node.op, node.attrs = "Reshape", {}
    node.inputs = [node.inputs[0], gs.Constant(f"{node.outputs[0].name}_shape", np.array(sizes, np.int64))]
    return True


def _onto_transpose(graph: gs.Graph, node: gs.Node, elsewhere: set[str]) -> bool:
    before = _before(node, "Transpose", elsewhere)
    if before is None or "perm" not in before.attrs:
        return False
    node.attrs["perm"] = [before.attrs["perm"][axis] for axis in node.attrs["perm"]]
    _read_past(graph, node, before)
    return True


def _between_reshapes(graph: gs.Graph, node: gs.Node, elsewhere: set[str]) -> bool:
    before, after = _before(node, "Reshape", elsewhere), only_reader(node.outputs[0], elsewhere)
    if before is None or after is None or after.op != "Reshape" or after.inputs[0] is not node.outputs[0]:
        return False
    shape, joined, parted = known_shape(before.inputs[0]), constant(before, 1), constant(after, 1)
    order = list(node.attrs["perm"])
    if shape is None or 0 in shape or joined is None or parted is None or len(order) > len(shape) or order[0] != 0:
        return False
    leading = len(shape) - len(order) + 1
    whole = [*range(leading), *(axis + leading - 1 for axis in order[1:])]
    wanted = [n if isinstance(n, int) else -1 for n in (shape[axis] for axis in whole)]
    if joined[1:].tolist() != shape[leading:] or parted.tolist() != wanted or wanted.count(-1) > 1:
        return False
    _read_past(graph, node, before)
    result = after.outputs[0]
    remove(graph, after)
    node.attrs["perm"], node.outputs = whole, [result]
    return True


def join_slices(graph: gs.Graph) -> int:
    """A slice of a slice, along other axes, as one, where that one has no other readers."""
    elsewhere = seen_elsewhere(graph)
    rewrites = 0
    for node in graph.nodes:
        [before] = node.inputs[0].inputs if node.op == "Slice" and len(node.inputs[0].inputs) == 1 else [None]
        if before is None or before.op != "Slice" or before.outputs[0].name in elsewhere:
            continue
        first, second = _cuts(before), _cuts(node)
        if first is None or second is None:
            continue
        if not all(_cut_apart(first, reader) for reader in before.outputs[0].outputs):
            continue
        axes = {**first, **second}
        starts, ends, steps = zip(*axes.values(), strict=True)
        arrays = {"starts": starts, "ends": ends, "axes": [*axes], "steps": steps}
        name = node.outputs[0].name
        stored = [gs.Constant(f"{name}_{what}", np.array(x, np.int64)) for what, x in arrays.items()]
        node.inputs = [before.inputs[0], *stored]
        rewrites += 1
    return rewrites


def _cut_apart(before: Cuts, node: gs.Node) -> bool:
    """Whether ``node`` is a Slice, and cuts other axes than the Slice ``before`` it."""
    cuts = _cuts(node) if node.op == "Slice" else None
    return cuts is not None and not cuts.keys() & before.keys()


def _cuts(node: gs.Node) -> Cuts | None:
    """(start, end, step) of each axis that a Slice cuts; None where that is computed."""
    shape = known_shape(node.inputs[0])
    values = [constant(node, index) for index in range(1, 5)]
    if not shape or any(x is None and (index < 2 or has_input(node, index + 1)) for index, x in enumerate(values)):
        return None
    starts, ends, axes, steps = values
    assert starts is not None and ends is not None  # the others are optional
    axes = np.arange(len(starts)) if axes is None else axes
    steps = np.ones(len(starts)) if steps is None else steps
    return {
        int(axis) % len(shape): (int(start), int(end), int(step))
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True)
    }


def join_concats(graph: gs.Graph) -> int:
    """A concatenation of concatenations along the same axis as one."""
    elsewhere = seen_elsewhere(graph)
    rewrites = 0
    for node in list(graph.nodes):
        for part in list(node.inputs) if node.op == "Concat" else []:
            before = part.inputs[0] if len(part.inputs) == 1 else None
            if before is None or before.op != "Concat" or before.attrs["axis"] != node.attrs["axis"]:
                continue
            if is_only_reader(node, part, elsewhere) and sum(x is part for x in node.inputs) == 1:
                place = next(index for index, x in enumerate(node.inputs) if x is part)
                node.inputs = [*node.inputs[:place], *before.inputs, *node.inputs[place + 1 :]]
                remove(graph, before)
                rewrites += 1
    return rewrites


def _before(node: gs.Node, op: str, elsewhere: set[str]) -> gs.Node | None:
    """The node of this operator whose output only ``node`` reads, as its first input."""
    [before] = node.inputs[0].inputs if len(node.inputs[0].inputs) == 1 else [None]
    fits = before is not None and before.op == op and is_only_reader(node, before.outputs[0], elsewhere)
    return before if fits else None


def _read_past(graph: gs.Graph, node: gs.Node, before: gs.Node) -> None:
    replace(node.inputs, node.inputs[0], before.inputs[0])
    remove(graph, before)
