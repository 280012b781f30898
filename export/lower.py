"""PyTorch to ONNX, with the guarantees that torch's exporter leaves to its caller."""

import ast
import contextlib
import copy
import io
import logging
from collections import Counter
from collections.abc import Iterator

import onnx
import torch
from torch import nn

from fold.errors import CheckError, InputError

_PROTOBUF_LIMIT = 2**31  # bytes; one ONNX file cannot be larger


def lower(model: nn.Module, example: torch.Tensor, opset: int = 20) -> onnx.ModelProto:
    """Translate ``model`` (as in eval mode; it is not modified) to ONNX with its weights inside.

    ``example`` is [N,C,H,W], N any; the result takes ``input`` [batch,C,H,W] and gives ``logits`` [batch,...], where
    batch is dynamic and the rest fixed. Nodes are named after the PyTorch module that they come from.

    Raises ``InputError`` where the model cannot be traced, translated, or depends on the batch size, and
    ``CheckError`` where the exporter produced an opset that is not ``opset``.
    """
    model = copy.deepcopy(model).cpu().eval()
    if sum(t.numel() * t.element_size() for t in model.state_dict().values()) >= _PROTOBUF_LIMIT:
        raise InputError("the weights exceed 2 GB, more than one ONNX file can hold; export a smaller model")
    batch = ({0: torch.export.Dim("batch")},)
    program = _trace(model, example.detach().cpu(), batch)
    try:
        with _quiet():
            exported = torch.onnx.export(
                program,
                input_names=["input"],
                output_names=["logits"],
                opset_version=opset,
                dynamo=True,
                verbose=False,
                dynamic_shapes=batch,
            )
    except torch.onnx.OnnxExporterError as error:
        message = _first_line(error.__cause__ or error)
        raise InputError(f"ONNX cannot express the model ({message}); replace that operation") from error
    proto = exported.model_proto
    produced = next(entry.version for entry in proto.opset_import if entry.domain == "")
    if produced != opset:
        raise CheckError(f"opset {opset} was asked for, the exporter produced opset {produced}; use --opset {produced}")
    if len(proto.graph.output) != 1:
        raise InputError(f"the model has {len(proto.graph.output)} outputs; export takes models that return one tensor")
    _name_nodes(proto.graph)
    _strip_metadata(proto)
    # The exporter writes its newest IR version. The oldest one that knows the opset (9 for opset 20) says the same,
    # and runtimes of the same age as the opset accept it too.
    proto.ir_version = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)])
    return proto


def _trace(model: nn.Module, example: torch.Tensor, dynamic_shapes: tuple) -> torch.export.ExportedProgram:
    # Not left to torch.onnx.export, which would silently fall back on a fixed batch size.
    two = torch.cat([example[:1], example[:1]])  # a batch of 1 would be taken for a constant
    try:
        with _quiet(), torch.no_grad():
            return torch.export.export(model, (two,), dynamic_shapes=dynamic_shapes, strict=False)
    except Exception as error:  # whatever the model's own forward may raise, too
        if "Constraints violated" in str(error):
            raise InputError(
                "the model works only for some batch sizes, so its batch cannot be dynamic; "
                "take the batch size from the input, as in x.flatten(1)"
            ) from error
        raise InputError(
            f"torch.export cannot trace the model: {_first_line(error)}; rewrite that part of forward so that "
            "it does not depend on the values of tensors, and check that the input shape is the model's"
        ) from error


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines()]
    return next(filter(None, lines), type(error).__name__).rstrip(".")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what the exporter logs and prints meanwhile: it ends in a result or an exception, and those say it all.

    Warnings pass: they come from the model's code as often as from the exporter's.
    """
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Name each node ``module.path/Operator``, numbered from the second of the same name on."""
    weights = {tensor.name for tensor in graph.initializer if tensor.name.endswith(".weight")}
    seen = Counter()
    for node in graph.node:
        name = "/".join(filter(None, [_module_path(node, weights), node.op_type]))
        seen[name] += 1
        node.name = name if seen[name] == 1 else f"{name}_{seen[name] - 1}"


def _module_path(node: onnx.NodeProto, weights: set[str]) -> str:
    # A convolution that took in its BatchNorm carries the BatchNorm's scope; its weight still has the right name.
    for name in node.input:
        if name in weights:
            return name.removesuffix(".weight")
    for entry in node.metadata_props:
        if entry.key == "pkg.torch.onnx.name_scopes":
            return ast.literal_eval(entry.value)[-2]  # ['', 'layer1', 'layer1.0', 'the fx node']
    return ""


def _strip_metadata(proto: onnx.ModelProto) -> None:
    """Remove the exporter's notes: they are larger than small graphs, and hold paths of the exporting machine."""
    graph = proto.graph
    for item in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del item.metadata_props[:]
        item.doc_string = ""
