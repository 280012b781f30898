"""What TensorRT's parser made of an ONNX file: known before anything is built, and without a GPU."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from layer_folding.bench_results import ParsedNetwork, WeightedLayers

KINDS = {
    "convolution": ("CONVOLUTION", "DECONVOLUTION"),
    "matrix product": ("MATRIX_MULTIPLY", "FULLY_CONNECTED"),
}
TYPES = {"FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16", "INT8": "int8", "FP8": "fp8", "INT4": "int4", "FP4": "fp4"}
# Layers that only move numbers: a quantised value stays quantised behind them.
MOVES = ("SHUFFLE", "IDENTITY", "SQUEEZE", "UNSQUEEZE", "SLICE", "CONCATENATION")


def parsed(network: Any, precision: str, wanted: Mapping[str, int]) -> ParsedNetwork:
    """How many convolutions and matrix products of a network definition compute in ``precision``, and which pairs of
    QuantizeLinear and DequantizeLinear serve none of them, and no sum of a shortcut either. ``wanted`` is
    how many of each kind the ONNX file has in that precision.
    """
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    producers = {tensor.name: layer for layer in layers for tensor in _outputs(layer)}
    readers = defaultdict(list)
    for layer in layers:
        for tensor in _inputs(layer):
            readers[tensor.name].append(layer)
    kinds = {}
    for kind, names in KINDS.items():
        found = [_precision(layer, producers) for layer in layers if layer.type.name in names]
        if found:
            kinds[kind] = WeightedLayers(kind, len(found), wanted.get(kind, 0), found.count(precision))
    pairs = [layer for layer in layers if layer.type.name == "DEQUANTIZE"]
    alone = tuple(layer.name for layer in pairs if not _serves(layer, readers))
    return ParsedNetwork(tuple(kinds.values()), len(pairs), alone)


def _precision(layer: Any, producers: dict[str, Any]) -> str:
    """What a layer with weights computes in: int8, where both factors were quantised, else the type that it reads."""
    sources = [_source(tensor, producers) for tensor in _inputs(layer)[:2]]
    quantised = [source for source in sources if source is not None and source.type.name == "DEQUANTIZE"]
    if len(quantised) == 2:  # weights that are no tensor of their own are not quantised
        return TYPES.get(_inputs(quantised[0])[0].dtype.name, "other")
    return TYPES.get(_inputs(layer)[0].dtype.name, "other")


def _source(tensor: Any, producers: dict[str, Any]) -> Any:
    """The layer that computes ``tensor``, seen through layers that only move numbers; None for an input."""
    layer = producers.get(tensor.name)
    while layer is not None and layer.type.name in MOVES:
        layer = producers.get(_inputs(layer)[0].name)
    return layer


def _serves(pair: Any, readers: dict[str, list[Any]]) -> bool:
    """Whether a layer with weights, or a sum, reads what ``pair`` dequantises: TensorRT fuses it with the pair."""
    fusing = ["ELEMENTWISE", *(name for names in KINDS.values() for name in names)]
    layers = [pair]
    while layers:
        behind = [reader for tensor in _outputs(layers.pop()) for reader in readers[tensor.name]]
        if any(layer.type.name in fusing for layer in behind):
            return True
        layers += [layer for layer in behind if layer.type.name in MOVES]
    return False


def _inputs(layer: Any) -> list[Any]:
    tensors = [layer.get_input(index) for index in range(layer.num_inputs)]
    return [tensor for tensor in tensors if tensor is not None]


def _outputs(layer: Any) -> list[Any]:
    return [layer.get_output(index) for index in range(layer.num_outputs)]
