"""Read an ONNX file into a network of PyTorch, by onnx2torch; and build that network again without the file."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

import onnx
from torch import fx

from layer_folding.errors import InputError

from ..graph.nodes import first_line
from .plainer import plainer
from .skeletons import pack, unpack


@dataclass(frozen=True)
class OnnxNetwork:
    """A network in an ONNX file: its ``model``, and ``graph``, the text from which `rebuild` makes it without weights.

    ``shape`` is [C, H, W] of one image; H and W are None where the file leaves them open. ``batch`` is the batch size,
    None where it is open. ``input`` and ``outputs`` are the names that the file has for them.
    """

    model: fx.GraphModule
    graph: str
    shape: tuple[int | None, ...]
    batch: int | None
    opset: int
    input: str
    outputs: tuple[str, ...]


def load(path: str | Path) -> fx.GraphModule:
    """The network in the ONNX file ``path``, in eval mode. Raises InputError as `read_network` does."""
    return read_network(path).model.eval()


def read_network(path: str | Path) -> OnnxNetwork:
    """The network in the ONNX file ``path``.

    Raises:
        InputError: the file is missing or damaged, has more inputs than one float32 image, or has an operator that
            onnx2torch does not know.
    """
    try:
        file = onnx.load(path)
        onnx.checker.check_model(file)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; give an ONNX file") from error
    except Exception as error:  # protobuf's, the checker's and the operating system's
        raise InputError(f"{path}: not an ONNX file, or damaged ({first_line(error)}); export it again") from error
    weights = {tensor.name for tensor in file.graph.initializer}
    inputs = [entry for entry in file.graph.input if entry.name not in weights]
    if len(inputs) != 1 or inputs[0].type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        raise InputError(f"{path}: takes {len(inputs)} inputs, or one that is not float32; give a network of one image")
    sizes = [dim.dim_value or None for dim in inputs[0].type.tensor_type.shape.dim]
    if len(sizes) < 2 or sizes[1] is None:
        raise InputError(
            f"{path}: its input {inputs[0].name} is not [N, C, ...] with fixed C; give a network of images"
        )
    try:
        plain = plainer(file)
        _require_known(plain, file)
        graph = pack(plain)
        model = _converted(plain)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    opset = next(entry.version for entry in file.opset_import if entry.domain in ("", "ai.onnx"))
    outputs = tuple(entry.name for entry in file.graph.output)
    return OnnxNetwork(model, graph, tuple(sizes[1:]), sizes[0], opset, inputs[0].name, outputs)


def _require_known(plain: onnx.ModelProto, file: onnx.ModelProto) -> None:
    """Raise InputError that names the first node of ``file`` that onnx2torch cannot convert."""
    names = {node.output[0]: node.name for node in file.graph.node}
    opsets = {entry.domain.replace("ai.onnx", ""): entry.version for entry in plain.opset_import}
    for node in plain.graph.node:
        domain = node.domain.replace("ai.onnx", "")
        try:
            _onnx2torch().node_converters.get_converter(node.op_type, opsets.get(domain, 1), domain)
        except NotImplementedError as error:
            name = names[node.output[0]] or f"that gives {node.output[0]}"
            raise InputError(
                f"node {name}: onnx2torch does not know {domain and f'{domain}.'}{node.op_type} of opset "
                f"{opsets.get(domain, 1)}; give the PyTorch code of the network"
            ) from error


def _onnx2torch() -> ModuleType:
    try:
        return import_module("onnx2torch")
    except ModuleNotFoundError as error:
        raise InputError("networks in ONNX files need onnx2torch; pip install 'layer-folding[onnx]'") from error


def rebuild(graph: str) -> fx.GraphModule:
    """The network whose `OnnxNetwork.graph` is ``graph``; its weights are zero. Raises ValueError for another text."""
    try:
        return _converted(unpack(graph))
    except InputError as error:
        raise ValueError(str(error)) from error


def _converted(model: onnx.ModelProto) -> fx.GraphModule:
    try:
        converted = _onnx2torch().convert(model)
    except Exception as error:  # whatever a converter raises
        raise InputError(
            f"onnx2torch cannot convert it ({first_line(error)}); give the PyTorch code of the network, or let "
            "`layer-folding export` simplify the file first"
        ) from error
    for parameter in converted.parameters():
        parameter.data = parameter.data.clone()  # of memory that numpy holds read-only
    return converted
