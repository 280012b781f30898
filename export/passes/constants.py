"""What does not depend on the input: compute it now, store it once, drop what nothing reads."""

import hashlib

import numpy as np
import onnx_graphsurgeon as gs

from ..onnx_graph import replace

_RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
_LARGEST = 2**24  # bytes; a constant that would be larger, such as an Expand, is cheaper computed than stored


def lower_constants(graph: gs.Graph) -> int:
    """Turn Constant nodes into initializers."""
    rewrites = 0
    for node in graph.nodes:
        if node.op == "Constant" and node.outputs and (values := _constant_values(node)) is not None:
            [tensor] = node.outputs
            node.outputs.clear()
            tensor.to_constant(values)
            rewrites += 1
    return rewrites


def _constant_values(node: gs.Node) -> np.ndarray | None:
    # Not left to graphsurgeon's fold_constants: that reads value_float as float64, and the graph is then ill-typed.
    [(name, value)] = node.attrs.items()
    if name == "value" and isinstance(value, gs.Constant):
        return value.values
    if name in ("value_float", "value_floats"):
        return np.array(value, np.float32)
    if name in ("value_int", "value_ints"):
        return np.array(value, np.int64)
    return None


def fold_constants(graph: gs.Graph) -> int:
    """Compute what depends on constants only, with ONNX Runtime; returns the number of nodes that this removed."""
    before = len(graph.nodes)
    # fold_shapes would also elide casts around shape arithmetic, and cut a factor of 0.5 between them to the integer 0.
    graph.fold_constants(
        fold_shapes=False, size_threshold=_LARGEST, should_exclude_node=lambda node: node.op in _RANDOM
    )
    return before - len(graph.cleanup().nodes)


def share_constants(graph: gs.Graph) -> int:
    """Let nodes that read equal constants read one; returns the number of those that go."""
    first: dict[tuple, gs.Constant] = {}
    outputs = {output.name for output in graph.outputs}
    shared = 0
    for tensor in list(graph.tensors().values()):
        if not isinstance(tensor, gs.Constant) or not tensor.outputs:
            continue
        values = tensor.values
        digest = hashlib.sha256(values.tobytes()).digest()
        kept = first.setdefault((values.dtype.str, values.shape, digest), tensor)
        if kept is tensor or tensor.name in outputs:
            continue
        for node in list(tensor.outputs):
            replace(node.inputs, tensor, kept)
        shared += 1
    return shared


def remove_dead(graph: gs.Graph) -> int:
    """Remove nodes that no output depends on."""
    before = len(graph.nodes)
    return before - len(graph.cleanup().nodes)
