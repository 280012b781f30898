"""What precision an engine really runs in, read from the text of TensorRT's engine inspector."""

import json
import re
from collections import Counter
from collections.abc import Callable

from trt_bench.errors import CheckError

# "Half" and "Row major linear FP16 format" are the same: TensorRT 8 writes a format's prose, 10 the type's name.
TYPES = {
    "bf16": r"BF16|BFloat16",
    "fp16": r"Half|FP16",
    "int8": r"Int8",
    "fp8": r"FP8",
    "int4": r"Int4",
    "fp4": r"FP4",
    "fp32": r"Float|FP32",
}


def layers(information: str) -> list[dict]:
    """The layers of an engine; those that the inspector only names (a version without details) as {"Name": ...}."""
    entries = json.loads(information).get("Layers", [])
    return [entry if isinstance(entry, dict) else {"Name": entry} for entry in entries]


def precisions(layers: list[dict]) -> dict[str, int]:
    """Number of ``layers`` of an engine by precision.

    A layer has the smallest type among its inputs and outputs, since a kernel that reads int8 and writes float computes
    in int8. Reformats, which only change the type, do not count.
    """
    counts: Counter[str] = Counter()
    for layer in layers:
        if layer.get("LayerType") not in ("Reformat", "NoOp"):
            counts[_precision(layer)] += 1
    return dict(sorted(counts.items()))


def _precision(layer: dict) -> str:
    tensors = [*layer.get("Inputs", []), *layer.get("Outputs", [])]
    text = " ".join(str(tensor.get("Datatype") or tensor.get("Format/Datatype", "")) for tensor in tensors)
    found = {name for name, pattern in TYPES.items() if re.search(rf"\b(?:{pattern})\b", text, re.IGNORECASE)}
    return next((name for name in ("fp4", "int4", "fp8", "int8", "bf16", "fp16", "fp32") if name in found), "other")


def check(path: object, asked: str, counts: dict[str, int]) -> None:
    """Raise CheckError if an engine was asked to run in less than fp32 and has no layer that does."""
    if asked in TYPES and asked != "fp32" and not counts.get(asked):
        found = ", ".join(f"{count} {name}" for name, count in counts.items()) or "none with a known type"
        raise CheckError(
            f"{path}: is {asked}, but its engine has no {asked} layer (layers: {found}); "
            "this GPU may be without it: export in another precision"
        )


def modules(layer: dict) -> list[str]:
    """The PyTorch modules that a layer computes, from the names of its ONNX nodes ("layer1.0.conv1/Conv").

    TensorRT fuses nodes; a fused layer names all of them, in its metadata or, before TensorRT 8.6, in its own name.
    """
    nodes = re.findall(r"\[ONNX Layer: ([^\]]*)\]", str(layer.get("Metadata", "")))
    return sorted({module_of(node) for node in nodes or str(layer["Name"]).split(" + ")} - {""})


def module_of(node: str) -> str:
    """The module in an ONNX node's name as the export gives it, "module.path/Operator_1"; "" where there is none."""
    return node.strip().rpartition("/")[0].strip("/")


def module_map(layers: list[dict]) -> Callable[[str], list[str]]:
    """A function from the name of a layer, as the profiler reports it, to the modules that it computes."""
    known = {_plain(str(layer["Name"])): modules(layer) for layer in layers}
    return lambda name: known.get(_plain(name), modules({"Name": name}))


def _plain(name: str) -> str:
    """A layer's name without the number of the optimisation profile that it belongs to."""
    return re.sub(r" \[profile \d+\]$", "", name)
