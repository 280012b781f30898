"""Depth, parameters and multiply-accumulates of an ONNX file from elsewhere, counted in its graph."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

from layer_folding.bench_results import NetworkRecord
from layer_folding.errors import InputError

from . import onnx_header, onnx_nodes
from .onnx_nodes import WEIGHTED, Graph, Node, Weight

NUMBERS = {1, 2, 3, 10, 11, 16}  # TensorProto's float, uint8, int8, float16, double, bfloat16: types of parameters
PASSES_ON = {"Cast", "DequantizeLinear", "Identity", "QuantizeLinear", "Reshape", "Transpose"}


@dataclass(frozen=True)
class Layer:
    """A layer with weights; ``macs`` are its multiply-accumulates for one image, None where sizes are not known.

    ``quantised``: its input was rounded to 8 bits.
    """

    name: str
    operator: str
    weight: Weight
    macs: int | None
    quantised: bool


def network(path: str | Path) -> NetworkRecord:
    """What the exporter wrote into the file at ``path``; what it did not write is counted in the graph.

    Multiply-accumulates need the sizes of values. Where the file does not have them, the ``onnx`` package infers them,
    if it is installed; else the number stays None. Raises InputError for a file that is missing or no ONNX file.
    """
    said = onnx_header.read(path)
    if None not in (said.depth, said.parameters, said.macs):
        return said
    try:
        graph = onnx_nodes.read(path)
    except (IndexError, KeyError, ValueError) as error:
        raise InputError(f"{path}: not an ONNX file, or cut off; export it again") from error
    counted = NetworkRecord(depth(graph), parameters(graph), macs(graph, path))
    return replace(
        said, **{name: value for name, value in vars(counted).items() if vars(said)[name] is None and value is not None}
    )


def depth(graph: Graph) -> int:
    """Layers with weights on the longest path."""
    weights = _weights(graph)
    longest: dict[str, int] = {}
    for node in graph.nodes:
        here = max((longest.get(name, 0) for name in node.inputs), default=0) + (_weight_of(node, weights) is not None)
        longest |= dict.fromkeys(node.outputs, here)
    return max(longest.values(), default=0)


def parameters(graph: Graph) -> int:
    """Numbers in the tensors that the file holds, without indices, shapes and single scales."""
    tensors = [*graph.weights.values(), *(node.constant for node in graph.nodes if node.constant)]
    return sum(math.prod(tensor.dims) for tensor in tensors if tensor.data_type in NUMBERS and tensor.dims)


def macs(graph: Graph, path: str | Path) -> int | None:
    """Multiply-accumulates of the layers with weights for one image; None where sizes are not known."""
    each = [layer.macs for layer in layers(graph, path)]
    known = [number for number in each if number is not None]
    return sum(known) if len(known) == len(each) else None


def layers(graph: Graph, path: str | Path) -> list[Layer]:
    """The layers with weights, in the order of the nodes; ``path`` is the file of ``graph``."""
    weights = _weights(graph)
    found = [(node, weight) for node in graph.nodes if (weight := _weight_of(node, weights))]
    positions = [_positions(node, graph) for node, _ in found]
    if None in positions:
        sized = replace(graph, shapes=_inferred(path))
        positions = [_positions(node, sized) for node, _ in found]
    return [
        Layer(
            node.name,
            node.operator,
            weight,
            None if number is None else math.prod(weight.dims) * number,
            onnx_nodes.is_quantised(node, graph),
        )
        for (node, weight), number in zip(found, positions, strict=True)
    ]


def _weights(graph: Graph) -> dict[str, Weight]:
    """The tensors of the file, and what nodes make of them without changing how many numbers they have."""
    known = dict(graph.weights)
    for node in graph.nodes:
        source = node.constant or (known.get(node.inputs[0]) if node.inputs and node.operator in PASSES_ON else None)
        if source:
            known |= dict.fromkeys(node.outputs, source)
    return known


def _weight_of(node: Node, weights: dict[str, Weight]) -> Weight | None:
    """The weight of a layer; None for another node, and for a product of two values."""
    if node.operator not in WEIGHTED:
        return None
    return next((weights[name] for name in node.inputs if name in weights and len(weights[name].dims) >= 2), None)


def _positions(node: Node, graph: Graph) -> int | None:
    """How often one image meets each number of a layer's weight: at the output, of a transposed one at the input."""
    if node.operator == "Gemm":
        return 1
    shape = graph.shapes.get(node.inputs[0] if node.operator == "ConvTranspose" else node.outputs[0], ())
    sizes = shape[1:-1] if node.operator == "MatMul" else shape[2:]
    if len(shape) < 2 or None in sizes:
        return None
    return math.prod(size for size in sizes if size is not None)


def _inferred(path: str | Path) -> dict[str, onnx_nodes.Shape]:
    """The shapes of all values, as far as the ``onnx`` package can tell; none, where it is not installed."""
    try:
        import onnx
    except ImportError:  # as on a board
        return {}
    try:
        inferred = onnx.shape_inference.infer_shapes(onnx.load(path, load_external_data=False), data_prop=True)
    except Exception:  # what protobuf and its C++ raise has no public name; the sizes are then not known
        return {}
    return onnx_nodes.parse(inferred.SerializeToString()).shapes
