"""Quantised networks as TensorRT wants them: explicit QuantizeLinear and DequantizeLinear nodes.

ONNX Runtime's quantiser puts one pair behind each value. TensorRT wants them where they fuse: on what a layer reads,
and on the shortcut of a residual addition, but not between the convolution and the addition that ends it (TensorRT
Developer Guide, "Q/DQ Layer-Placement Recommendations"). So the pairs are placed here, one for each reader, and ONNX
Runtime does the histograms. Everything is symmetric, zero points are 0, weights have a scale per output channel, and
biases stay float.
"""

from collections.abc import Callable, Collection, Mapping

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from layer_folding.errors import InputError

from .calibrate import largest_values
from .fp16 import require_floats
from .onnx_graph import bypass, constant, seen_elsewhere
from .passes.linear import WEIGHTED

_LEVELS = 127  # -128 is not used: the scale is symmetric


def quantise(
    model: onnx.ModelProto, images: np.ndarray, method: str = "minmax", keep: Collection[str] = ()
) -> onnx.ModelProto:
    """``model`` with int8 pairs on all its layers of constant weights, calibrated on ``images`` float32 [N,C,H,W].

    ``method`` is one of `export.calibrate.METHODS`; ``keep`` names nodes, or operators, that stay in float. Raises
    ``InputError`` where nothing is left to quantise.
    """
    require_floats(model, "int8")
    graph = gs.import_onnx(model)
    layers = _layers(graph, keep)
    return _with_pairs(
        model, graph, layers, shortcuts(graph, keep), lambda names: largest_values(model, names, images, method)
    )


def quantisable(model: onnx.ModelProto, keep: Collection[str] = ()) -> list[str]:
    """The names of the nodes of ``model`` that `quantise` gives pairs: layers, and additions with a shortcut.

    Raises as `quantise`.
    """
    require_floats(model, "int8")
    graph = gs.import_onnx(model)
    nodes = [*_layers(graph, keep), *(node for node, _ in shortcuts(graph, keep))]
    return list(dict.fromkeys(node.name for node in nodes))


def ranges(model: onnx.ModelProto, images: np.ndarray, method: str = "minmax") -> dict[str, float]:
    """The largest absolute value of each tensor that `quantise` would quantise for a reader."""
    graph = gs.import_onnx(model)
    edges = [*((node, 0) for node in _layers(graph)), *shortcuts(graph)]
    return largest_values(model, list(dict.fromkeys(node.inputs[i].name for node, i in edges)), images, method)


def quantise_only(model: onnx.ModelProto, chosen: Collection[str], largest: Mapping[str, float]) -> onnx.ModelProto:
    """``model`` with pairs for the nodes ``chosen`` of `quantisable` alone; ``largest`` is from `ranges`."""
    graph = gs.import_onnx(model)
    layers = [node for node in graph.nodes if _is_layer(node) and node.name in chosen]
    others = [(node, index) for node, index in shortcuts(graph) if node.name in chosen]
    return _with_pairs(model, graph, layers, others, lambda names: {name: largest[name] for name in names})


def quantise_segment(model: onnx.ModelProto, images: np.ndarray, *, feeds_layer: bool) -> onnx.ModelProto:
    """``model``, a few layers of a network, with the pairs that they have in the quantised network.

    Where the output ``feeds_layer``, the reader of the output has a pair on it. It stands behind the output here: a
    runtime computes a layer in int8 only where what it gives is quantised, too. Without layers and such an output the
    model stays as it is.
    """
    graph = gs.import_onnx(model)
    layers = [node for node in graph.nodes if _is_layer(node)]
    ends = _readers(graph) if feeds_layer else []
    others = [*shortcuts(graph), *((node, 0) for node in ends)]
    if not layers and not others:
        return model
    result = gs.import_onnx(
        _with_pairs(model, graph, layers, others, lambda names: largest_values(model, names, images))
    )
    for node in [node for node in result.nodes if node.name in {end.name for end in ends}]:
        bypass(result, node, seen_elsewhere(result))
    return gs.export_onnx(result)


def _readers(graph: gs.Graph) -> list[gs.Node]:
    """Nodes that read the outputs of ``graph`` and give them on, which stand for what reads them in the network."""
    readers = []
    for index, output in enumerate(graph.outputs):
        given = gs.Variable(f"{output.name}/given", output.dtype, output.shape)
        readers.append(gs.Node("Identity", f"{output.name}/reader", {}, [output], [given]))
        graph.outputs[index] = given
    graph.nodes += readers
    return readers


def _with_pairs(
    model: onnx.ModelProto,
    graph: gs.Graph,
    layers: list[gs.Node],
    others: list[tuple[gs.Node, int]],
    largest_of: Callable[[list[str]], Mapping[str, float]],
) -> onnx.ModelProto:
    """``graph``, which is that of ``model``, with pairs on what ``layers`` read, on their weights, and on the inputs of
    ``others``. ``largest_of`` gives the largest absolute values of tensors."""
    edges = [(node, 0) for node in layers] + others
    largest = largest_of(list(dict.fromkeys(node.inputs[index].name for node, index in edges)))
    scales = {name: gs.Constant(f"{name}_scale", _scale(np.array(value))) for name, value in largest.items()}
    zero = gs.Constant("int8_zero", np.zeros((), np.int8))
    for node, index in edges:
        _insert(graph, node, index, scales[node.inputs[index].name], zero)
    for node in layers:
        weight, axis = node.inputs[1].values, _channel_axis(node)
        across = tuple(i for i in range(weight.ndim) if i != axis)
        scale = _scale(np.abs(weight.astype(np.float64)).max(axis=across))
        name = node.inputs[1].name
        _insert(
            graph,
            node,
            1,
            gs.Constant(f"{name}_scale_{node.name}", scale),
            gs.Constant(f"{name}_zero_{node.name}", np.zeros(len(scale), np.int8)),
            axis,
        )
    result = gs.export_onnx(graph.toposort())
    for entry in model.metadata_props:
        result.metadata_props.add(key=entry.key, value=entry.value)
    return result


def shortcuts(graph: gs.Graph, keep: Collection[str] = ()) -> list[tuple[gs.Node, int]]:
    """The inputs of residual additions that a layer does not end: where both are layers, the one with fewer before it.

    The other one, the layer of the main branch, fuses with the addition.
    """
    depths: dict[str, int] = {}
    found = []
    for node in graph.nodes:
        before = [depths.get(x.name, 0) for x in node.inputs]
        depths |= dict.fromkeys((x.name for x in node.outputs), max(before, default=0) + (node.op in WEIGHTED))
        if node.op != "Add" or {node.name, node.op} & set(keep) or any(isinstance(x, gs.Constant) for x in node.inputs):
            continue
        ends = [bool(x.inputs) and _is_layer(x.inputs[0]) for x in node.inputs]
        if all(ends):
            found.append((node, 0 if before[0] < before[1] else 1))
        elif any(ends):
            found.append((node, ends.index(False)))
    return found


def _layers(graph: gs.Graph, keep: Collection[str] = ()) -> list[gs.Node]:
    """The layers of ``graph`` to quantise. Raises ``InputError`` where there are none."""
    layers = [node for node in graph.nodes if _is_layer(node) and not {node.name, node.op} & set(keep)]
    if not layers:
        raise InputError(
            "int8: no Conv, Gemm or MatMul with constant weights is left to quantise; use another precision"
        )
    return layers


def _is_layer(node: gs.Node) -> bool:
    weight = constant(node, 1)
    return node.op in WEIGHTED and weight is not None and weight.dtype == np.float32 and weight.ndim > 1


def _channel_axis(node: gs.Node) -> int:
    match node.op:
        case "Conv":
            return 0
        case "Gemm":
            return 0 if node.attrs.get("transB", 0) else 1
        case "ConvTranspose":
            return 1
    return node.inputs[1].values.ndim - 1


def _scale(largest: np.ndarray) -> np.ndarray:
    """The step between levels; 1 where there is nothing but zeros, which any step represents."""
    return np.where(largest > 0, largest / _LEVELS, 1).astype(np.float32)


def _insert(
    graph: gs.Graph, node: gs.Node, index: int, scale: gs.Constant, zero: gs.Constant, axis: int | None = None
) -> None:
    tensor = node.inputs[index]
    name = f"{tensor.name}/{node.name}"
    attributes = {} if axis is None else {"axis": axis}
    quantised = gs.Variable(f"{name}/quantised", np.int8)
    restored = gs.Variable(f"{name}/dequantised", np.float32, tensor.shape)
    node.inputs[index] = restored
    graph.nodes += [
        gs.Node("QuantizeLinear", f"{name}/QuantizeLinear", attributes, [tensor, scale, zero], [quantised]),
        gs.Node("DequantizeLinear", f"{name}/DequantizeLinear", attributes, [quantised, scale, zero], [restored]),
    ]
