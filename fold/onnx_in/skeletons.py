"""The graph of an ONNX file without its weights, as a text that fits into the recipe of a checkpoint.

Small tensors and whole numbers stay, since they say what the graph does: shapes, axes, limits. The rest is weights.
"""

import base64
import binascii
import zlib
from collections.abc import Iterator

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper
from onnx.external_data_helper import uses_external_data

_SMALL = 32  # values; what has more is a weight
_MOST_BYTES = 2**26  # of a graph without weights
_MOST_VALUES = 2**29  # of all weights: 2 GB, more than one ONNX file holds
_WEIGHTS = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16}


def pack(model: onnx.ModelProto) -> str:
    """``model`` without its weights, which is not modified."""
    content = without_weights(model).SerializeToString(deterministic=True)
    return base64.b64encode(zlib.compress(content, 9)).decode("ascii")


def without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of ``model`` in which weights have a shape and no values."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for tensor in bare.graph.initializer:
        if is_weight(tensor):
            tensor.CopyFrom(onnx.TensorProto(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type))
    return bare


def unpack(text: str) -> onnx.ModelProto:
    """What `pack` made ``text`` of, with weights that are zero. Raises ValueError for any other text."""
    try:
        inflating = zlib.decompressobj()
        content = inflating.decompress(base64.b64decode(text, validate=True), _MOST_BYTES)
        if inflating.unconsumed_tail:
            raise ValueError(f"the graph has more than {_MOST_BYTES} bytes")
        model = onnx.ModelProto.FromString(content)
    except (binascii.Error, zlib.error, DecodeError) as error:
        raise ValueError(f"the graph is damaged ({error})") from error
    if any(map(uses_external_data, _tensors(model.graph))):
        raise ValueError("the graph asks for a file of this machine")
    weights = [tensor for tensor in model.graph.initializer if is_weight(tensor)]
    if sum(_count(tensor) for tensor in weights) > _MOST_VALUES:
        raise ValueError("the graph has more weights than one ONNX file can hold")
    for tensor in weights:
        zeros = np.zeros(tuple(tensor.dims), onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
        tensor.CopyFrom(numpy_helper.from_array(zeros, tensor.name))
    return model


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """All tensors of ``graph``, those in its nodes and in their bodies among them."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield attribute.t
            yield from attribute.tensors
            for body in (attribute.g, *attribute.graphs):
                yield from _tensors(body)


def is_weight(tensor: onnx.TensorProto) -> bool:
    """Whether the values of ``tensor`` are weights, and no part of the graph."""
    return tensor.data_type in _WEIGHTS and _count(tensor) > _SMALL


def _count(tensor: onnx.TensorProto) -> int:
    if any(size < 0 for size in tensor.dims):
        raise ValueError(f"{tensor.name} has a negative size")
    return int(np.prod([int(size) for size in tensor.dims], dtype=object)) if tensor.dims else 1
