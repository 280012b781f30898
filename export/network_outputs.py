"""What a network returns, as an ONNX file has it: one list of tensors, each with a name."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from layer_folding.errors import InputError
from layer_folding.fold.graph.comparing import parts_of

SINGLE = "logits"  # what the output of a network with one output is called


def tensors_of(output: object) -> list[Tensor]:
    """The tensors that a network returns, in the order in which an ONNX file has them.

    Raises InputError for a number, a string or the like.
    """
    return [tensor for _, tensor in _named(output, "")]


def return_flat(model: nn.Module, example: Tensor) -> list[str]:
    """Let ``model`` return a tuple of tensors where it returns something else than one tensor, in place.

    ``example`` is an input that it accepts. Gives the names of the outputs: that of an entry of a dictionary or of
    a field of a data class is its key, that of an entry of a list is its place, as in `output_0_boxes`.
    """
    forward = model.forward
    with torch.no_grad():
        output = model(example)
    if isinstance(output, Tensor):
        return [SINGLE]
    names = [name if not name[:1].isdigit() else f"output_{name}" for name, _ in _named(output, "")]

    def flat(x: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensors_of(forward(x)))

    model.forward = flat
    return names


def _named(output: object, path: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(output, Tensor):
        yield path, output
        return
    parts = parts_of(output)
    if parts is None:
        raise InputError(
            f"the network returns a {type(output).__name__}; give one that returns tensors, or lists, dictionaries or "
            "data classes of them"
        )
    for key, part in parts.items():
        if part is not None or not _has_fields(output):  # a field of a data class that is not filled
            yield from _named(part, f"{path}_{key}" if path else str(key))


def _has_fields(output: object) -> bool:
    return hasattr(output, "__dataclass_fields__")
