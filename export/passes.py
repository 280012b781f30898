"""Simplify ONNX graphs: small rewrites that do not change the function, run until none finds anything to do.

A pass takes an onnx-graphsurgeon graph, rewrites it in place and returns the number of its rewrites.
"""

import logging
from collections import Counter

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.logger import G_LOGGER

_RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}


def simplify(model: onnx.ModelProto) -> tuple[onnx.ModelProto, Counter, Counter]:
    """Return a simplified copy of ``model``, and its number of nodes per operator before and after.

    Same function to float32 rounding (BatchNorm is folded in float64), same inputs and outputs, opset, IR version
    and metadata. Simplifying twice is simplifying once.
    """
    before = Counter(node.op_type for node in model.graph.node)
    copied = onnx.ModelProto()
    copied.CopyFrom(model)  # graphsurgeon keeps references into what it imports
    graph = gs.import_onnx(copied)
    with G_LOGGER.suppress(logging.CRITICAL):  # it prints to stdout
        while sum(rewrite(graph) for rewrite in PASSES):
            pass
        result = gs.export_onnx(graph)
    for entry in model.metadata_props:
        result.metadata_props.add(key=entry.key, value=entry.value)
    return result, before, Counter(node.op_type for node in result.graph.node)


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
    graph.fold_constants(fold_shapes=False, should_exclude_node=lambda node: node.op in _RANDOM)
    return before - len(graph.cleanup().nodes)


def remove_identities(graph: gs.Graph) -> int:
    """Remove Identity, and Dropout outside of training."""
    rewrites = 0
    for node in list(graph.nodes):
        if node.op == "Identity" or (node.op == "Dropout" and _is_inference_dropout(graph, node)):
            rewrites += _bypass(graph, node)
    return rewrites


def _is_inference_dropout(graph: gs.Graph, node: gs.Node) -> bool:
    if graph.opset < 7:
        return False  # is_test, in those days; rather kept than misread
    if any(_is_used(graph, mask) for mask in node.outputs[1:]):
        return False
    mode = node.inputs[2] if len(node.inputs) > 2 else None
    return mode is None or mode.is_empty() or (isinstance(mode, gs.Constant) and not mode.values.any())


def _bypass(graph: gs.Graph, node: gs.Node) -> bool:
    """Take a node whose first output equals its first input out of ``graph``. False where it has to stay."""
    source, result = node.inputs[0], node.outputs[0]
    if any(tensor is result for tensor in graph.outputs):
        # The name of a graph output is part of the interface, so the producer takes it over. What has no producer,
        # or is itself an output, cannot be renamed.
        if len(source.inputs) != 1 or any(tensor is source for tensor in graph.outputs) or _is_captured(graph, source):
            return False
        [producer] = source.inputs
        _remove(graph, node)
        _replace(producer.outputs, source, result)
        for consumer in list(source.outputs):
            _replace(consumer.inputs, source, result)
    else:
        if _is_captured(graph, result):
            return False
        _remove(graph, node)
        for consumer in list(result.outputs):
            _replace(consumer.inputs, result, source)
    return True


def _remove(graph: gs.Graph, node: gs.Node) -> None:
    node.inputs.clear()
    node.outputs.clear()
    del graph.nodes[next(index for index, other in enumerate(graph.nodes) if other is node)]  # == compares contents


def _replace(tensors: list, old: gs.Tensor, new: gs.Tensor) -> None:
    for index, tensor in enumerate(tensors):
        if tensor is old:
            tensors[index] = new


def _is_captured(graph: gs.Graph, tensor: gs.Tensor) -> bool:
    """Whether the body of an If, Loop or Scan uses ``tensor``; that does not always show in the list of consumers."""
    return any(
        tensor.name in {used.name for node in body.nodes for used in node.inputs}
        or any(tensor.name == output.name for output in body.outputs)
        for body in graph.subgraphs(recursive=True)
    )


def _is_used(graph: gs.Graph, tensor: gs.Tensor) -> bool:
    return bool(tensor.outputs) or any(tensor is output for output in graph.outputs) or _is_captured(graph, tensor)


def fold_batchnorm(graph: gs.Graph) -> int:
    """Fold BatchNormalization (inference) into the Conv or Gemm before it, if that has no other consumer."""
    rewrites = 0
    for norm in list(graph.nodes):
        if norm.op != "BatchNormalization" or norm.attrs.get("training_mode", 0) or len(norm.inputs[0].inputs) != 1:
            continue
        value = norm.inputs[0]
        [linear] = value.inputs
        constants = [*norm.inputs[1:], *linear.inputs[1:]]
        if (
            linear.op in ("Conv", "Gemm")
            and all(isinstance(tensor, gs.Constant) or tensor.is_empty() for tensor in constants)
            and isinstance(linear.inputs[1], gs.Constant)
            and len(value.outputs) == 1
            and not any(tensor is value for tensor in graph.outputs)
            and not _is_captured(graph, value)
            and not any(_is_used(graph, statistic) for statistic in norm.outputs[1:])
        ):
            rewrites += _fold_batchnorm(graph, linear, norm)
    return rewrites


def _fold_batchnorm(graph: gs.Graph, linear: gs.Node, norm: gs.Node) -> bool:
    old_weight = linear.inputs[1]
    old_bias = linear.inputs[2] if len(linear.inputs) > 2 and not linear.inputs[2].is_empty() else None
    gamma, beta, mean, variance = (tensor.values.astype(np.float64) for tensor in norm.inputs[1:5])
    weight, bias = old_weight.values, np.zeros(1)
    scale = linear.attrs.get("beta", 1.0)  # of the bias; only a Gemm has one
    if old_bias is not None:
        bias = old_bias.values.astype(np.float64)
        if bias.size != 1 and not bias.size == bias.shape[-1] == gamma.size:
            return False  # a Gemm may also add a matrix, or one number per row
        bias = scale * bias.reshape(-1)
    linear.attrs.pop("beta", None)
    factor = gamma / np.sqrt(variance + norm.attrs.get("epsilon", 1e-5))
    channels = 1 if linear.op == "Gemm" and not linear.attrs.get("transB", 0) else 0
    shape = [-1 if axis == channels else 1 for axis in range(weight.ndim)]
    values = {
        "weight": (old_weight, weight * factor.reshape(shape)),
        "bias": (old_bias, (bias - mean) * factor + beta),
    }
    # New tensors, because others may share the old ones; a tensor that goes leaves its name to its successor.
    linear.inputs = [linear.inputs[0]] + [
        gs.Constant(_successor_name(graph, old, f"{linear.name}.{role}"), new.astype(weight.dtype))
        for role, (old, new) in values.items()
    ]
    [result, *_] = norm.outputs
    _remove(graph, norm)
    linear.outputs = [result]
    return True


def _successor_name(graph: gs.Graph, old: gs.Constant | None, fallback: str) -> str:
    if old is not None and len(old.outputs) == 1:
        return old.name
    taken, name, number = graph.tensors(), fallback, 1
    while name in taken:
        name, number = f"{fallback}_{number}", number + 1
    return name


def remove_dead(graph: gs.Graph) -> int:
    """Remove nodes that no output depends on."""
    before = len(graph.nodes)
    return before - len(graph.cleanup().nodes)


PASSES = (lower_constants, fold_constants, remove_identities, fold_batchnorm, remove_dead)
