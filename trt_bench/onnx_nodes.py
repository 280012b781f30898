"""The graph of an ONNX file: its nodes, weights and shapes, read with no ONNX package, as a Jetson has none."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from .protobuf import contents, numbers, text

Shape = tuple[int | None, ...]  # None: not known, such as a batch of any size

# fields of onnx.proto
GRAPH = 7  # of ModelProto
NODE, INITIALIZER, INPUT, OUTPUT, VALUE_INFO = 1, 5, 11, 12, 13  # of GraphProto
NODE_INPUT, NODE_OUTPUT, NODE_NAME, OPERATOR, ATTRIBUTE = 1, 2, 3, 4, 5  # of NodeProto
DIMS, DATA_TYPE, TENSOR_NAME = 1, 2, 8  # of TensorProto
TENSOR = 5  # of AttributeProto
VALUE_NAME, TYPE, TENSOR_TYPE, SHAPE, DIM, DIM_VALUE = 1, 2, 1, 2, 1, 1  # of ValueInfoProto and what is in it

WEIGHTED = {
    "Conv": "convolution",
    "ConvTranspose": "convolution",
    "Gemm": "matrix product",
    "MatMul": "matrix product",
}


@dataclass(frozen=True)
class Weight:
    """A tensor that the file holds; ``data_type`` is a number of TensorProto."""

    dims: tuple[int, ...]
    data_type: int


@dataclass(frozen=True)
class Node:
    """A node of the graph; ``constant`` is the tensor of a node that is one."""

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constant: Weight | None = None


@dataclass(frozen=True)
class Graph:
    """The ``nodes`` in their order, the ``weights`` by name, and the ``shapes`` of values as far as the file has
    them."""

    nodes: tuple[Node, ...]
    weights: dict[str, Weight]
    shapes: dict[str, Shape]

    @cached_property
    def producers(self) -> dict[str, Node]:
        """For each value that the graph computes, the node that does."""
        return {output: node for node in self.nodes for output in node.outputs}


def read(path: str | Path) -> Graph:
    """The graph of the ONNX file at ``path``. Raises as `protobuf.fields` for a file that is none."""
    return parse(Path(path).read_bytes())


def parse(model: bytes) -> Graph:
    """The graph of the serialised ``model``; raises as `read`."""
    nodes: list[Node] = []
    weights: dict[str, Weight] = {}
    shapes: dict[str, Shape] = {}
    for graph in contents(memoryview(model), GRAPH):
        nodes += map(_node, contents(graph, NODE))
        weights |= {text(tensor, TENSOR_NAME): _weight(tensor) for tensor in contents(graph, INITIALIZER)}
        for field in (INPUT, VALUE_INFO, OUTPUT):
            shapes |= {text(value, VALUE_NAME): _shape(value) for value in contents(graph, field)}
    return Graph(tuple(nodes), weights, shapes)


def weighted(graph: Graph, precision: str) -> dict[str, int]:
    """How many convolutions and matrix products of ``graph`` are to run in its ``precision``, by kind.

    In an int8 file, those are the nodes that read what was dequantised; else, all.
    """
    counts: dict[str, int] = {}
    for node in graph.nodes:
        kind = WEIGHTED.get(node.operator)
        if kind and (is_quantised(node, graph) or not precision.startswith("int8")):
            counts[kind] = counts.get(kind, 0) + 1
    return counts


def is_quantised(node: Node, graph: Graph) -> bool:
    """Whether ``node`` reads what was dequantised."""
    source = graph.producers.get(node.inputs[0]) if node.inputs else None
    return source is not None and source.operator == "DequantizeLinear"


def _node(node: memoryview) -> Node:
    inputs, outputs = (
        tuple(str(each, "utf-8") for each in contents(node, field)) for field in (NODE_INPUT, NODE_OUTPUT)
    )
    operator = text(node, OPERATOR)
    tensors = [tensor for attribute in contents(node, ATTRIBUTE) for tensor in contents(attribute, TENSOR)]
    constant = _weight(tensors[0]) if operator == "Constant" and tensors else None
    return Node(text(node, NODE_NAME), operator, inputs, outputs, constant)


def _weight(tensor: memoryview) -> Weight:
    return Weight(numbers(tensor, DIMS), next(iter(numbers(tensor, DATA_TYPE)), 0))


def _shape(value: memoryview) -> Shape:
    return tuple(
        next(iter(numbers(dim, DIM_VALUE)), None)
        for kind in contents(value, TYPE)
        for tensor in contents(kind, TENSOR_TYPE)
        for shape in contents(tensor, SHAPE)
        for dim in contents(shape, DIM)
    )
