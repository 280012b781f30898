"""An ONNX file as a list of its weighted layers, in the order that they run, with what follows and skips each."""

from dataclasses import dataclass, field
from pathlib import Path

import onnx

from layer_folding.errors import InputError
from layer_folding.onnx_names import module_of

PLUMBING = {"Constant", "Shape", "Slice", "Pad", "Reshape", "Identity", "Cast", "Gather", "Unsqueeze", "Squeeze"} | {
    "Transpose", "Split", "Flatten", "Range", "Expand", "ConstantOfShape", "QuantizeLinear", "DequantizeLinear"
}  # fmt: skip
INPUT = -1  # the place of the network's input


@dataclass
class Layer:
    """A convolution or product with weights. ``after`` are the operators up to the next one: (call site, operator)."""

    name: str
    shape: str  # such as "3×3 16 → 32 /2"
    sources: set[int] = field(default_factory=set)  # the places of the layers that it reads from
    skips: set[int] = field(default_factory=set)  # those of layers that come in after it, by a sum, say
    after: list[tuple[str, str]] = field(default_factory=list)


def layers(path: Path) -> list[Layer]:
    """The weighted layers of the ONNX file at ``path``. Raises InputError if it is no such file, or cut off."""
    try:
        graph = onnx.load(path, load_external_data=False).graph
        if not graph.node:
            raise ValueError("no nodes")
    except Exception as error:  # what protobuf raises is no public name
        raise InputError(f"{path}: not an ONNX file, or cut off; export it again, `make export`") from error
    weights = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    place = {value.name: INPUT for value in graph.input if value.name not in weights}
    found: list[Layer] = []
    for node in graph.node:
        sources = {place[name] for name in node.input if name in place}
        dims = next((weights[name] for name in node.input if len(weights.get(name, ())) >= 2), None)
        if dims and node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            found.append(Layer(module_of(node.name) or node.name, _shape(node, dims), sources))
            at = len(found) - 1
        elif sources:
            at = max(sources)
            if at >= 0:
                found[at].skips |= sources - {at}
                if node.op_type not in PLUMBING:
                    found[at].after.append((_call_site(node.name), node.op_type))
        else:
            continue  # a constant
        place |= dict.fromkeys(node.output, at)
    return found


def _shape(node: onnx.NodeProto, dims: list[int]) -> str:
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type in ("Gemm", "MatMul"):
        flipped = "transB" in attributes and attributes["transB"].i
        inputs, outputs = (dims[1], dims[0]) if flipped else dims[-2:]
        return f"{inputs} → {outputs}"
    groups = attributes["group"].i if "group" in attributes else 1
    strides = list(attributes["strides"].ints) if "strides" in attributes else [1]
    outputs, inputs = (dims[0], dims[1] * groups) if node.op_type == "Conv" else (dims[1] * groups, dims[0])
    kernel = "×".join(map(str, dims[2:]))
    if groups == inputs == outputs > 1:
        text = f"{kernel} depthwise {inputs}"
    else:
        text = f"{kernel} {inputs} → {outputs}" + (f" {groups} groups" if groups > 1 else "")
    return text + (f" /{max(strides)}" if max(strides) > 1 else "")


def _call_site(node: str) -> str:
    """The name that fold.json has for the call of a module: "layer1.0.relu_1" for the node "layer1.0.relu/Relu_1"."""
    number = node.rpartition("_")[2]
    return module_of(node) + (f"_{number}" if number.isdigit() else "")
