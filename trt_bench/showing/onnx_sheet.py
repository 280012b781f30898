"""The sheet of an ONNX file: its inputs, its layers with weights, their cost, and what the exporter wrote into it."""

import math
from collections.abc import Iterator
from pathlib import Path

from layer_folding import records
from layer_folding.errors import InputError
from layer_folding.recipes import Recipe
from layer_folding.text import human

from .. import onnx_costs, onnx_header, onnx_nodes
from ..onnx_nodes import Graph, Shape
from ..protobuf import contents, numbers, text
from .checkpoint_sheet import of_recipe
from .sheets import Sheet, listed, size

# fields of onnx.proto
_PRODUCER, _PRODUCER_VERSION, _GRAPH, _OPSET = 2, 3, 7, 8  # of ModelProto
_INITIALIZER, _INPUT, _OUTPUT = 5, 11, 12  # of GraphProto
_VALUE_NAME, _VALUE_TYPE, _TENSOR_TYPE, _ELEMENT = 1, 2, 1, 1  # of ValueInfoProto and what is in it
_TENSOR_NAME = 8  # of TensorProto
_DOMAIN, _VERSION = 1, 2  # of OperatorSetIdProto
_TYPES = {1: "fp32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 9: "bool", 10: "fp16", 11: "fp64", 16: "bf16"}


def network(path: Path) -> Sheet:
    """The sheet of an ONNX file. Raises InputError where the file is cut off or is no ONNX file."""
    costs = onnx_costs.network(path)
    try:
        model = memoryview(path.read_bytes())
        graph = onnx_nodes.parse(bytes(model))
        opsets = dict(_opsets(model))
        values = {field: dict(_values(model, field, graph)) for field in (_INPUT, _OUTPUT)}
        producer = " ".join(filter(None, (text(model, _PRODUCER), text(model, _PRODUCER_VERSION))))
        layers = onnx_costs.layers(graph, path)
    except (IndexError, KeyError, ValueError) as error:
        raise InputError(f"{path}: not an ONNX file, or cut off; export it again") from error
    recipe = onnx_header.recipe(path)
    precision = costs.precision or _precision(graph)
    known = {
        "layers": f"{human(costs.depth)} with weights on the longest path",
        "parameters": human(costs.parameters),
        "MACs": f"{human(costs.macs)} for one image" if costs.macs is not None else "not known: sizes are missing",
        "precision": precision,
        "opset": ", ".join(f"{version}{domain and f' of {domain}'}" for domain, version in opsets.items()),
        "inputs": "; ".join(values[_INPUT].values()),
        "outputs": "; ".join(values[_OUTPUT].values()),
        "nodes": f"{len(graph.nodes)}: {listed(_counts(graph), 8)}",
        "written by": producer,
    }
    told = {} if recipe is None else of_recipe(recipe)
    facts = {**known, **{f"{name}, as exported" if name in known else name: fact for name, fact in told.items()}}
    return Sheet(
        str(path),
        "ONNX network",
        f"{human(costs.depth)} layers, {human(costs.parameters)} parameters, {human(costs.macs)} MACs, {precision}",
        {name: fact for name, fact in facts.items() if fact},
        ("layer", "operator", "weight", "type", "macs"),
        [
            (
                layer.name,
                layer.operator,
                layer.weight.dims,
                "int8" if layer.quantised else _type(layer.weight.data_type),
                layer.macs,
            )
            for layer in layers
        ],
        _record(records.as_json(costs), precision, opsets, values, producer, recipe),
    )


def _record(
    costs: dict[str, object],
    precision: str,
    opsets: dict[str, int],
    values: dict[int, dict[str, str]],
    producer: str,
    recipe: Recipe | None,
) -> dict[str, object]:
    return {
        **costs,
        "precision": precision,
        "opsets": opsets,
        "inputs": values[_INPUT],
        "outputs": values[_OUTPUT],
        "producer": producer,
        "recipe": None if recipe is None else records.as_json(recipe),
    }


def _opsets(model: memoryview) -> Iterator[tuple[str, int]]:
    for opset in contents(model, _OPSET):
        yield text(opset, _DOMAIN), next(iter(numbers(opset, _VERSION)), 0)


def _values(model: memoryview, field: int, graph: Graph) -> Iterator[tuple[str, str]]:
    """The inputs or outputs of the network, each by name with its type and shape; a weight is no input."""
    for body in contents(model, _GRAPH):
        weights = {text(tensor, _TENSOR_NAME) for tensor in contents(body, _INITIALIZER)}
        for value in contents(body, field):
            name = text(value, _VALUE_NAME)
            if name not in weights:
                yield name, f"{name}, {_element(value)} {_sizes(graph.shapes.get(name, ()))}"


def _element(value: memoryview) -> str:
    found = (
        element
        for kind in contents(value, _VALUE_TYPE)
        for tensor in contents(kind, _TENSOR_TYPE)
        for element in numbers(tensor, _ELEMENT)
    )
    return _type(next(found, 0))


def _sizes(shape: Shape) -> str:
    return size(["N" if place == 0 and each is None else each for place, each in enumerate(shape)])


def _type(number: int) -> str:
    return _TYPES.get(number, f"type {number}")


def _counts(graph: Graph) -> list[str]:
    """The operators, the most frequent first."""
    operators = [node.operator for node in graph.nodes]
    return [
        f"{operators.count(name)} {name}" for name in sorted(set(operators), key=lambda n: (-operators.count(n), n))
    ]


def _precision(graph: Graph) -> str:
    """The precision of a file that does not say it: the type in which most of its weights are kept."""
    if any(node.operator == "DequantizeLinear" for node in graph.nodes):
        return "int8"
    held: dict[str, int] = {}
    for weight in graph.weights.values():
        if weight.data_type in onnx_costs.NUMBERS:
            held[_type(weight.data_type)] = held.get(_type(weight.data_type), 0) + math.prod(weight.dims)
    return max(held, key=lambda name: held[name], default="unknown")
