"""The sheet of a checkpoint, read by the header of the file: no weight is loaded, and PyTorch is not needed."""

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from layer_folding import recipes, records
from layer_folding.errors import InputError
from layer_folding.fit_choices import parse_choice, shape_text
from layer_folding.recipes import Recipe
from layer_folding.records import Count
from layer_folding.stages import STEPS
from layer_folding.text import counted, human

from .sheets import Sheet, listed, size

_OPEN = 0.9  # of a gate that counts as open, unless `finetune --threshold` says otherwise
_LENGTH = 8  # bytes that hold the length of the header, which follows
_REMEDY = "if a stage wrote the file, delete it and run that stage again"
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@dataclass(frozen=True)
class Tensor:
    """A tensor of a safetensors file: its type, its shape, and where its bytes begin and end behind the header."""

    dtype: str
    shape: tuple[Count, ...]
    data_offsets: tuple[Count, Count]

    @property
    def numbers(self) -> int:
        return math.prod(self.shape)

    def __post_init__(self) -> None:
        start, end = self.data_offsets
        if self.dtype in _BYTES and end - start != _BYTES[self.dtype] * self.numbers:
            raise ValueError(f"data_offsets is {list(self.data_offsets)}, and the shape is {list(self.shape)}")


def checkpoint(path: Path) -> Sheet:
    """The sheet of a .safetensors file. Raises InputError where the file is cut off or damaged."""
    tensors, metadata = _header(path)
    recipe = _recipe(path, metadata.get("recipe"))
    weights = sum(tensor.numbers for tensor in tensors.values())
    facts = {"tensors": f"{len(tensors)} with {human(weights)} numbers"}
    if recipe is None:
        kind, summary = "weights", f"{human(weights)} numbers, and no recipe: give the file as WEIGHTS"
    else:
        kind, summary = "checkpoint", f"{recipe.stage} network of {recipe.network.spec}{_best(recipe)}"
        facts = {**of_recipe(recipe), **facts}
    return Sheet(
        str(path),
        kind,
        summary,
        facts,
        ("tensor", "dtype", "shape", "numbers"),
        [(name, tensor.dtype, tensor.shape, tensor.numbers) for name, tensor in tensors.items()],
        {"recipe": None if recipe is None else records.as_json(recipe), "tensors": records.as_json(tensors)},
        text="" if recipe is None else _text(path, facts, recipe),
    )


def of_recipe(recipe: Recipe) -> dict[str, str]:
    """What a recipe says of a network, a phrase for each fact; what was not done is left out."""
    arguments = ", ".join(f"{name}={value}" for name, value in recipe.network.arguments.items())
    opened = [name for name, alpha in recipe.gates.items() if alpha >= _OPEN]
    found = {
        "stage": recipe.stage,
        "network": f"{recipe.network.spec}({arguments})",
        "input": size(recipe.input_shape),
        "classes": listed(recipe.classes),
        "gates": f"{len(recipe.gates)}, of which {len(opened)} are open; they open to {recipe.linear} maps"
        if recipe.gate
        else "",
        "planned": listed(recipe.planned),
        "removed": f"{len(recipe.removed)} activations: {listed(recipe.removed)}" if recipe.removed else "",
        "put back": f"{len(recipe.kept)} activations: {listed([*recipe.kept])}" if recipe.kept else "",
        "hoisted": f"the padding of {counted(len(recipe.hoisted), 'region')}" if recipe.hoisted else "",
        "fitted": counted(len(recipe.fitted), "layer") if recipe.fitted else "",
        "merged": f"{sum(map(len, recipe.folded.values()))} layers into {len(recipe.folded)}" if recipe.folded else "",
        "accuracy": ", ".join(
            f"{step} {100 * recipe.accuracy[step]:.2f} %" for step in STEPS if step in recipe.accuracy
        ),
    }
    return {name: value for name, value in found.items() if value}


def _text(path: Path, facts: Mapping[str, str], recipe: Recipe) -> str:
    """The facts, then each layer that was fitted or merged, and each activation that was put back."""
    width = max(map(len, facts))
    lines = [f"{path}: checkpoint", *(f"  {name:{width}}  {value}" for name, value in facts.items())]
    for title, found in (("fitted:", _fitted(recipe)), ("merged:", _merged(recipe)), ("put back:", _kept(recipe))):
        entries = list(found)
        lines += ["", title, *(f"  {entry}" for entry in entries)] if entries else []
    return "\n".join(lines)


def _fitted(recipe: Recipe) -> Iterator[str]:
    for record in recipe.fitted:
        choice = parse_choice(record.choice)
        replaced = f"{listed(record.layers)} with {listed(choice.activations)}"
        yield f"{record.name} ({shape_text(choice.shape)}): in place of {replaced}; relative error {record.error:.3g}"


def _merged(recipe: Recipe) -> Iterator[str]:
    return (f"{name}: in place of {listed(layers)}" for name, layers in recipe.folded.items())


def _kept(recipe: Recipe) -> Iterator[str]:
    return (f"{name}: {reason}" for name, reason in recipe.kept.items())


def _best(recipe: Recipe) -> str:
    known = [step for step in STEPS if step in recipe.accuracy]
    return f", accuracy {100 * recipe.accuracy[known[-1]]:.2f} %" if known else ""


def _recipe(path: Path, text: str | None) -> Recipe | None:
    if text is None:
        return None
    try:
        return recipes.from_json(text)
    except ValueError as error:
        raise InputError(
            f"{path}: its recipe cannot be used ({error}); make the checkpoint again, or {_REMEDY}"
        ) from error


def _header(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file by name, and its metadata."""
    whole = path.stat().st_size
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(_LENGTH))
            data = whole - _LENGTH - length
            if data < 0:
                raise ValueError("it is cut off")
            content = records.parse_json(file.read(length).decode())
        content = records.decode(dict[str, object], content)
        metadata = records.decode(dict[str, str], content.pop("__metadata__", {}), "__metadata__")
        tensors = records.decode(dict[str, Tensor], content)
        if max((tensor.data_offsets[1] for tensor in tensors.values()), default=0) != data:
            raise ValueError("its tensors do not end where the file ends")
    except (ValueError, struct.error) as error:
        raise InputError(f"{path}: not a checkpoint, or damaged ({error}); {_REMEDY}") from error
    return tensors, metadata
