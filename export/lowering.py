"""PyTorch to ONNX, with the guarantees that torch's exporter leaves to its caller."""

import ast
import contextlib
import io
import logging
import re
from collections import Counter
from collections.abc import Iterator

import onnx
import torch
from torch import nn

from layer_folding.errors import CheckError, InputError
from layer_folding.fold.graph.baked import SizeCheck
from layer_folding.fold.graph.foreign import require_unwrapped
from layer_folding.fold.graph.preparing import private_copy

from .network_outputs import return_flat
from .opsets import step_down
from .translations import kept_translations

_PROTOBUF_LIMIT = 2**31  # bytes; one ONNX file cannot be larger
_EXPORTERS_OLDEST = 18  # opset; from there `step_down` goes on


def lower(
    model: nn.Module, example: torch.Tensor, opset: int = 20, batch: int | None = None, *, dynamic_size: bool = False
) -> onnx.ModelProto:
    """Translate ``model`` (as in eval mode; it is not modified) to ONNX with its weights inside.

    ``example`` is [N,C,H,W], N any; the result takes ``input`` [batch,C,H,W] and gives ``logits`` [batch,...], where
    batch is dynamic, or the number ``batch``, and the rest fixed. With ``dynamic_size`` H and W are dynamic too.
    Several outputs are named after where they are in what the model returns (`export.network_outputs`). Nodes are
    named after the PyTorch module that they come from.

    Raises ``InputError`` where the model cannot be traced or translated, or depends on a size that is to be dynamic,
    and ``CheckError`` where the exporter produced an opset that is not ``opset``.
    """
    # strides of the weights or of the example would become operators, such as Range and Gather for a pooling
    require_unwrapped(model)
    model = private_copy(model, share_weights=False).cpu().to(memory_format=torch.contiguous_format)
    if sum(t.numel() * t.element_size() for t in model.state_dict().values()) >= _PROTOBUF_LIMIT:
        raise InputError("the weights exceed 2 GB, more than one ONNX file can hold; export a smaller model")
    dimensions = {0: torch.export.Dim("batch")} if batch is None else {}
    if dynamic_size:
        dimensions |= dict.fromkeys((2, 3), torch.export.Dim.DYNAMIC)  # not Dim: a stride limits what sizes it takes
    # a batch of 1 would be taken for a constant where it is to be dynamic
    example = example[:1].detach().cpu().expand(batch or 2, *example.shape[1:])
    example = example.clone(memory_format=torch.contiguous_format)
    _require_open(model, batch, dynamic_size=dynamic_size)
    program, names = _trace(model, example, dimensions)
    try:
        with _quiet(), kept_translations():
            exported = torch.onnx.export(
                program,
                input_names=["input"],
                output_names=names,
                opset_version=max(opset, _EXPORTERS_OLDEST),
                dynamo=True,
                verbose=False,
                dynamic_shapes=(dimensions,) if dimensions else None,
            )
    except torch.onnx.OnnxExporterError as error:
        message = _first_line(error.__cause__ or error)
        raise InputError(f"ONNX cannot express the model ({message}); replace that operation") from error
    assert exported is not None  # as with dynamo=True
    proto = exported.model_proto
    _name_nodes(proto.graph)
    if opset == _EXPORTERS_OLDEST - 1:
        step_down(proto)
    produced = next(entry.version for entry in proto.opset_import if entry.domain == "")
    if produced != opset:
        raise CheckError(f"opset {opset} was asked for, the exporter produced opset {produced}; use --opset {produced}")
    if dynamic_size:
        _name_size(proto.graph)
    _strip_metadata(proto)
    # The exporter writes its newest IR version. The oldest one that knows the opset (9 for opset 20) says the same,
    # and runtimes of the same age as the opset accept it too.
    proto.ir_version = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)])
    return proto


def _require_open(model: nn.Module, batch: int | None, *, dynamic_size: bool) -> None:
    """Raise InputError where a size that was baked in when ``model`` was traced is to be another one, or dynamic."""
    for baked in [module.sizes for module in model.modules() if isinstance(module, SizeCheck)]:
        if batch != baked.get(0, batch):
            raise InputError(
                f"the network was traced for a batch of {baked[0]}; give --batch {baked[0]}, batch={baked[0]}"
            )
        if dynamic_size and {2, 3} & baked.keys():
            raise InputError("the network was traced for one image size, so its size cannot be dynamic")


def _trace(model: nn.Module, example: torch.Tensor, dimensions: dict) -> tuple[torch.export.ExportedProgram, list[str]]:
    """The operations of ``model``, which is changed to return tensors only, and the names of the outputs."""
    # Not left to torch.onnx.export, which would silently fall back on fixed sizes.
    try:
        with _quiet(), torch.no_grad():
            # of one image where the batch is dynamic, so that a network that remembers the last shape, as those of
            # ultralytics do, does not find that again: it would be taken for the only one
            names = return_flat(model, example[:1] if 0 in dimensions else example)
            return torch.export.export(model, (example,), dynamic_shapes=(dimensions,), strict=False), names
    except InputError:
        raise
    except Exception as error:  # whatever the model's own forward may raise, too
        if "Constraints violated" in str(error):
            if len(dimensions) > 1:
                raise InputError(
                    "the model works only for some image sizes, so its size cannot be dynamic; leave --dynamic-size out"
                ) from error
            raise InputError(
                "the model works only for some batch sizes, so its batch cannot be dynamic; "
                "take the batch size from the input, as in x.flatten(1), or fix it: --batch 1, batch=1"
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


def _name_size(graph: onnx.GraphProto) -> None:
    """Call the dynamic axes 2 and 3 of the input ``height`` and ``width``, also where other shapes refer to them."""
    dims = graph.input[0].type.tensor_type.shape.dim
    names = {dims[axis].dim_param: name for axis, name in ((2, "height"), (3, "width"))}
    for value in (*graph.input, *graph.value_info, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(r"\w+", lambda word: names.get(word[0], word[0]), dim.dim_param)


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Name each node ``module.path/Operator``, numbered from the second of the same name on."""
    weights = {tensor.name for tensor in graph.initializer if tensor.name.endswith(".weight")}
    seen: Counter[str] = Counter()
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
