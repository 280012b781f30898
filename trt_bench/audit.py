"""What precision an engine really runs in."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from layer_folding.bench_results import ParsedNetwork, WeightedLayers
from layer_folding.errors import CheckError

from .engine_layers import Layer

# "Half" and "Row major linear FP16 format" are the same: TensorRT 8 writes a format's prose, 10 the type's name.
# What layers with weights are called: CaskConvolution, correlation, CaskGemmMatrixMultiply, gemm.
KINDS = {"convolution": r"conv|correlation", "matrix product": r"gemm|matmul|matrix|fully"}
OTHER_PROFILE = re.compile(r"\[profile [1-9]")  # an engine for several batch sizes has each layer for each of them
TYPES = {
    "bf16": r"BF16|BFloat16",
    "fp16": r"Half|FP16",
    "int8": r"Int8",
    "fp8": r"FP8",
    "int4": r"Int4",
    "fp4": r"FP4",
    "fp32": r"Float|FP32",
}


def arithmetic(precision: str) -> str:
    """The type that layers with weights compute in: int8 of "int8-fp16", which has the rest in fp16."""
    return precision.partition("-")[0]


def precisions(layers: Sequence[Layer]) -> dict[str, int]:
    """Number of ``layers`` of an engine by precision. Reformats, which only change the type, do not count."""
    counts = Counter(_precision(layer) for layer in layers if layer.kind.partition(" ")[0] not in ("Reformat", "NoOp"))
    return dict(sorted(counts.items()))


def weighted(layers: Sequence[Layer], asked: str, wanted: Mapping[str, int]) -> tuple[WeightedLayers, ...]:
    """The convolutions and matrix products among ``layers``, and how many of them run in the precision ``asked``.

    These do the arithmetic: a network whose only int8 layers are those that quantise is no int8 network. ``wanted`` is
    how many of each kind the ONNX file has in that precision.
    """
    asked = arithmetic(asked)
    once = [layer for layer in layers if not OTHER_PROFILE.search(layer.name)]
    found = {kind: [layer for layer in once if _kind(layer) == kind] for kind in KINDS}
    return tuple(
        WeightedLayers(kind, len(of_kind), wanted.get(kind, 0), sum(_precision(layer) == asked for layer in of_kind))
        for kind, of_kind in found.items()
        if of_kind
    )


def _kind(layer: Layer) -> str | None:
    """Which of KINDS a layer is; None for others, and for those that the inspector only names."""
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, layer.kind, re.IGNORECASE)), None)


def _precision(layer: Layer) -> str:
    """The smallest type of what a layer reads, and of what it writes where it has no weights.

    A convolution that reads int8 and writes float computes in int8; one that reads float and writes int8 does not.
    """
    text = " ".join([*layer.inputs, *(layer.outputs if _kind(layer) is None else ())])
    found = {name for name, pattern in TYPES.items() if re.search(rf"\b(?:{pattern})\b", text, re.IGNORECASE)}
    return next((name for name in ("fp4", "int4", "fp8", "int8", "bf16", "fp16", "fp32") if name in found), "other")


def check(path: object, asked: str, counts: Mapping[str, int], of_weights: Sequence[WeightedLayers]) -> None:
    """Raise CheckError if an engine was asked to run in less than fp32 and does not.

    What counts are its layers with weights; only where the inspector tells of none, all of its layers.
    """
    computes = arithmetic(asked)
    if computes not in TYPES or computes == "fp32":
        return
    if of_weights and not any(layers.as_asked for layers in of_weights):
        says = f"its engine has {in_words(of_weights, asked)}"
    elif not of_weights and not counts.get(computes):
        found = ", ".join(f"{count} {name}" for name, count in counts.items()) or "none with a known type"
        says = f"its engine has no {computes} layer (layers: {found})"
    else:
        return
    raise CheckError(f"{path}: is {asked}, but {says}; this GPU may not support {asked}: export in another precision")


def check_parsed(path: object, asked: str, parsed: ParsedNetwork) -> None:
    """Raise CheckError if the file says that it is in less than fp32, and no layer with weights is, once parsed."""
    of_weights, computes = parsed.weighted_layers, arithmetic(asked)
    if computes in TYPES and computes != "fp32" and of_weights and not any(layers.as_asked for layers in of_weights):
        raise CheckError(
            f"{path}: is {asked}, but TensorRT's parser finds {in_words(of_weights, asked)}; export it again, with "
            f"--precision {asked}"
        )


def in_words(of_weights: Sequence[WeightedLayers], asked: str) -> str:
    """Such as "3 of 8 convolutions and 1 of 1 matrix product in int8"."""
    kinds = [f"{each.as_asked} of {each.all} {each.kind}{'s' * (each.all != 1)}" for each in of_weights]
    return f"{' and '.join(kinds)} in {arithmetic(asked)}"
