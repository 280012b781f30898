"""Changing onnx-graphsurgeon graphs without breaking what others see: outputs, branch bodies, shared tensors."""

import numpy as np
import onnx_graphsurgeon as gs


def bypass(graph: gs.Graph, node: gs.Node, elsewhere: set[str]) -> bool:
    """Take a node whose first output equals its first input out of ``graph``. False where it has to stay.

    ``elsewhere`` is from `seen_elsewhere`.
    """
    source, result = node.inputs[0], node.outputs[0]
    if result.name not in elsewhere:
        remove(graph, node)
        for consumer in list(result.outputs):
            replace(consumer.inputs, result, source)
        return True
    # The name of a graph output is part of the interface, so the producer takes it over. What has no producer, or is
    # itself seen by its name, cannot be renamed.
    is_output = any(tensor is result for tensor in graph.outputs)
    if not is_output or len(source.inputs) != 1 or source.name in elsewhere:
        return False
    [producer] = source.inputs
    remove(graph, node)
    replace(producer.outputs, source, result)
    for consumer in list(source.outputs):
        replace(consumer.inputs, source, result)
    return True


def remove(graph: gs.Graph, node: gs.Node) -> None:
    """Take ``node`` out of ``graph``; its tensors stay, without it."""
    node.inputs.clear()
    node.outputs.clear()
    del graph.nodes[next(index for index, other in enumerate(graph.nodes) if other is node)]  # == compares contents


def replace(tensors: list, old: gs.Tensor, new: gs.Tensor) -> None:
    """Put ``new`` in the places of ``old`` in the inputs or outputs of a node."""
    for index, tensor in enumerate(tensors):
        if tensor is old:
            tensors[index] = new


def seen_elsewhere(graph: gs.Graph) -> set[str]:
    """Names of the values that graph outputs or the bodies of If, Loop and Scan nodes see.

    Uses in a body do not always show in the list of consumers.
    """
    seen = {output.name for output in graph.outputs}
    for body in graph.subgraphs(recursive=True):
        seen |= {used.name for node in body.nodes for used in node.inputs} | {output.name for output in body.outputs}
    return seen


def only_reader(tensor: gs.Tensor, elsewhere: set[str]) -> gs.Node | None:
    """The node that reads ``tensor``, if nothing else does (``elsewhere`` from `seen_elsewhere`)."""
    return tensor.outputs[0] if len(tensor.outputs) == 1 and tensor.name not in elsewhere else None


def is_only_reader(node: gs.Node, tensor: gs.Tensor, elsewhere: set[str]) -> bool:
    """Whether ``node`` reads ``tensor``, and nothing else does (``elsewhere`` from `seen_elsewhere`)."""
    return only_reader(tensor, elsewhere) is node


def constant(node: gs.Node, index: int) -> np.ndarray | None:
    """The values of input ``index`` of ``node``; None where it has no such input, or that is not a constant."""
    tensor = node.inputs[index] if index < len(node.inputs) else None
    return tensor.values if isinstance(tensor, gs.Constant) else None


def has_input(node: gs.Node, index: int) -> bool:
    """Whether the optional input ``index`` of ``node`` is there."""
    return index < len(node.inputs) and not node.inputs[index].is_empty()


def known_shape(tensor: gs.Tensor) -> list[int | str] | None:
    """The shape of ``tensor`` where the number of its axes is known: an int, or a name, for each axis.

    A name stands for one number wherever it occurs; an axis of which nothing is known makes the shape unknown.
    """
    shape = tensor.shape
    if shape is None or any(not isinstance(n, int | str) or n == "" or (isinstance(n, int) and n < 0) for n in shape):
        return None
    return list(shape)
