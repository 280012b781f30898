"""Read ONNX files from anywhere: what is wrong with one is one line, and nothing is loaded beyond need.

Tensors are weighed before they are read, and external data is read only from the folder of the file.
"""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from onnx import TensorProto, external_data_helper, helper

from layer_folding.errors import InputError

OLDEST_OPSET = 13  # per-channel quantisation, and axes as inputs; older files can be converted
CONVERTIBLE_OPSET = 7  # the oldest that the onnx package converts
_LIMIT = 2**31  # bytes of one file, and of one value in the network


def read_onnx(path: Path, *, convertible: bool = False) -> onnx.ModelProto:
    """The network at ``path``, its weights inside and its shapes inferred anew.

    With ``convertible`` it may be of an older opset than export takes, for `export.converting.with_opset`.
    Raises ``InputError`` that names the file and what is wrong with it.
    """
    try:
        return _read(path, CONVERTIBLE_OPSET if convertible else OLDEST_OPSET)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _read(path: Path, oldest: int) -> onnx.ModelProto:
    if not path.is_file():
        raise InputError("no such file; give an ONNX file")
    if path.stat().st_size >= _LIMIT:
        raise InputError("larger than 2 GB; give a network whose weights one ONNX file can hold")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise InputError("not an ONNX file, or cut off; give a whole one") from error
    if not model.graph.node or not model.ir_version:
        raise InputError("not an ONNX file, or one without a network; give a whole one")
    _check_names(model)
    _tidy(model)
    _check_opset(model, oldest)
    _check_tensors(model, path.parent)
    external_data_helper.load_external_data_for_model(model, str(path.parent))
    del model.graph.value_info[:]  # what a file says about its values need not be true
    try:
        model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
        onnx.checker.check_model(model)
    except Exception as error:  # the checks of the onnx package raise several types
        raise InputError(f"not a valid network ({_first_line(error)}); export it again") from error
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        _check_value(value)
    for entry in model.graph.input:
        if entry.type.tensor_type.elem_type != TensorProto.FLOAT:
            name = TensorProto.DataType.Name(entry.type.tensor_type.elem_type)
            raise InputError(f"input {entry.name} is {name}; export takes networks of float32 inputs")
    return model


def _check_names(message: Message) -> None:
    """Raise InputError for a text that is not UTF-8: protobuf gives such a text as bytes, without a word."""
    for field, value in message.ListFields():
        values = [value] if isinstance(value, str | bytes | Message) else value
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for part in values:
                _check_names(part)
        elif field.type == FieldDescriptor.TYPE_STRING and any(isinstance(text, bytes) for text in values):
            raise InputError(f"the text of a field {field.name} is not UTF-8; export it again")


def _tidy(model: onnx.ModelProto) -> None:
    """Give every node a name of its own, and take weights out of the inputs."""
    taken: set[str] = set()
    for graph in _graphs(model.graph):
        weights = {tensor.name for tensor in graph.initializer}
        inputs = [entry for entry in graph.input if entry.name not in weights]
        if len(inputs) < len(graph.input):  # until version 3 of the format, weights were inputs with a default
            del graph.input[:]
            graph.input.extend(inputs)
        for node in graph.node:
            node.name = _free(node.name or node.op_type, taken)
            taken.add(node.name)
    model.ir_version = max(model.ir_version, 4)  # which has weights that are no inputs


def _free(name: str, taken: set[str]) -> str:
    return name if name not in taken else next(n for i in itertools.count(1) if (n := f"{name}_{i}") not in taken)


def _check_opset(model: onnx.ModelProto, oldest: int) -> None:
    versions = {entry.domain: entry.version for entry in model.opset_import}
    opset = versions.get("", versions.get("ai.onnx"))
    newest = onnx.defs.onnx_opset_version()
    if opset is None or not oldest <= opset <= newest:
        raise InputError(f"opset {opset}; export takes opsets {oldest} to {newest}, so convert it with --opset 20")
    foreign = sorted({node.domain for node in model.graph.node} - {"", "ai.onnx"})
    if model.functions or foreign:
        raise InputError(f"uses operators that are not ONNX's own ({', '.join(foreign) or 'functions'}); inline them")


def _check_tensors(model: onnx.ModelProto, folder: Path) -> None:
    total = 0
    for tensor in _tensors(model.graph):
        if any(dim < 0 for dim in tensor.dims):
            raise InputError(f"tensor {tensor.name} has a negative size; export it again")
        if tensor.data_type not in helper.get_all_tensor_dtypes() or tensor.data_type == TensorProto.UNDEFINED:
            raise InputError(f"tensor {tensor.name} has no known type; export it again")
        if tensor.data_type == TensorProto.STRING:
            continue
        size = math.ceil(math.prod(tensor.dims) * _bits(tensor.data_type) / 8)
        total += size
        if total >= _LIMIT:
            raise InputError(f"tensor {tensor.name} is {list(tensor.dims)}, more than 2 GB; give a smaller network")
        if tensor.data_location == TensorProto.EXTERNAL:
            _check_external(tensor, folder, size)
        elif tensor.HasField("raw_data") and len(tensor.raw_data) != size:
            raise InputError(f"tensor {tensor.name} is {list(tensor.dims)}, but its data is not; export it again")


def _tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    for part in _graphs(graph):
        yield from part.initializer
        for attribute in (attribute for node in part.node for attribute in node.attribute):
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """``graph`` and the bodies of its nodes, and theirs."""
    yield graph
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            yield from _graphs(body)


def _bits(data_type: int) -> int:
    names = {4: ("UINT4", "INT4", "FLOAT4E2M1"), 2: ("UINT2", "INT2")}
    name = TensorProto.DataType.Name(data_type)
    return next(
        (bits for bits, small in names.items() if name in small),
        8 * helper.tensor_dtype_to_np_dtype(data_type).itemsize,
    )


def _check_external(tensor: TensorProto, folder: Path, size: int) -> None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    file = (folder / location).resolve()
    if not location or not file.is_relative_to(folder.resolve()):
        raise InputError(f"tensor {tensor.name} is stored in {location!r}, outside of its folder; move it there")
    if not file.is_file():
        raise InputError(f"tensor {tensor.name} is stored in {location!r}, which is not there; give that file too")
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", size))
    except ValueError:
        offset = length = -1
    if length != size or offset < 0 or offset + length > file.stat().st_size:
        raise InputError(f"tensor {tensor.name} is not in {location!r} as it says; export it again")


def _check_value(value: onnx.ValueInfoProto) -> None:
    dims = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
    if any(dim < 0 for dim in dims) or math.prod(dims) * 4 >= _LIMIT:
        raise InputError(f"value {value.name} is {dims}, more than 2 GB; give a network for smaller inputs")


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__).rstrip(".")
