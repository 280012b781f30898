"""Read ONNX files from anywhere: what is wrong with one is one line, and nothing is loaded beyond need.

Tensors are weighed before they are read, and external data is read only from the folder of the file.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, external_data_helper, helper

from fold.errors import InputError

OLDEST_OPSET = 13  # per-channel quantisation, and axes as inputs; older files can be converted
_LIMIT = 2**31  # bytes of one file, and of one value in the network


def read_onnx(path: Path) -> onnx.ModelProto:
    """The network at ``path``, its weights inside and its shapes inferred anew.

    Raises ``InputError`` that names the file and what is wrong with it.
    """
    try:
        return _read(path)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _read(path: Path) -> onnx.ModelProto:
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
    _check_opset(model)
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
    return model


def _check_opset(model: onnx.ModelProto) -> None:
    versions = {entry.domain: entry.version for entry in model.opset_import}
    opset = versions.get("", versions.get("ai.onnx"))
    newest = onnx.defs.onnx_opset_version()
    if opset is None or not OLDEST_OPSET <= opset <= newest:
        raise InputError(f"opset {opset}; export takes opsets {OLDEST_OPSET} to {newest}, so convert it to one of them")
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
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for body in (attribute.g, *attribute.graphs):
                yield from _tensors(body)


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
