"""What the exporter wrote into an ONNX file about the network, read with no ONNX package: a Jetson has none."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from layer_folding import recipes
from layer_folding.bench_results import NetworkRecord
from layer_folding.errors import InputError
from layer_folding.recipes import Recipe

from .protobuf import contents, fields

PREFIX = "layer_folding."
LARGEST = 2**63
KINDS: dict[str, Callable[[str], int | float | str]] = {
    "depth": int, "parameters": int, "macs": int, "accuracy": float, "precision": str,
}  # fmt: skip
METADATA_PROPS = 14  # a field of ModelProto; its entries have the fields 1, the key, and 2, the value


def read(path: str | Path) -> NetworkRecord:
    """What the file at ``path`` says of its network.

    Raises InputError if the file is missing or cut off, or if one of the numbers is none.
    """
    strings = _strings(path)
    found = {name: _value(path, name, strings[PREFIX + name]) for name in KINDS if PREFIX + name in strings}
    return NetworkRecord(**found)


def changes(path: str | Path) -> frozenset[str] | None:
    """What the network at ``path`` has lost and got, by the recipe of its checkpoint (`Recipe.changes`); None where it
    carries no recipe that can be read. Raises InputError if the file is missing or cut off.
    """
    known = recipe(path)
    return None if known is None else frozenset(known.changes)


def recipe(path: str | Path) -> Recipe | None:
    """The recipe of the checkpoint that became the file at ``path``; None where the file carries none that can be read.
    Raises InputError if the file is missing or cut off.
    """
    try:
        return recipes.from_json(_strings(path)[f"{PREFIX}recipe"])
    except (KeyError, ValueError):
        return None


def _strings(path: str | Path) -> dict[str, str]:
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; give an ONNX file, as `layer-folding export` writes it")
    try:
        model = memoryview(Path(path).read_bytes())
        entries = [dict(fields(content)) for content in contents(model, METADATA_PROPS)]
        return {str(entry[1], "utf-8"): str(entry.get(2, b""), "utf-8") for entry in entries}
    except (IndexError, KeyError, ValueError) as error:
        raise InputError(f"{path}: not an ONNX file, or cut off; export it again") from error


def _value(path: str | Path, name: str, text: str) -> Any:
    try:
        value = KINDS[name](text)
        if isinstance(value, str) or 0 <= value < LARGEST:
            return value
    except ValueError:
        pass
    raise InputError(f"{path}: its metadata {PREFIX}{name} is {text!r}, which is no such number; export it again")
