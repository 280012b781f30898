"""What the exporter wrote into an ONNX file about the network, read with no ONNX package: a Jetson has none."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

from trt_bench.errors import InputError

PREFIX = "layer_folding."
KINDS = {"depth": int, "parameters": int, "macs": int, "accuracy": float, "precision": str}
# fields of onnx.proto
METADATA_PROPS = 14  # of ModelProto; its entries have the fields 1, the key, and 2, the value
GRAPH = 7  # of ModelProto
NODE = 1  # of GraphProto; it has the fields 1, an input, 2, an output, 3, the name, and 4, the operator


def read(path: str | Path) -> dict[str, int | float | str]:
    """What the file at ``path`` says of ``depth``, ``parameters``, ``macs``, ``accuracy`` and ``precision``.

    Raises InputError if the file is missing or cut off, or if one of the numbers is none.
    """
    strings = _strings(path)
    return {name: _value(path, name, strings[PREFIX + name]) for name in KINDS if PREFIX + name in strings}


def removed(path: str | Path) -> frozenset[str] | None:
    """The activations that the network at ``path`` has lost, as the recipe of its checkpoint names them; None where it
    carries no recipe that can be read. Raises InputError if the file is missing or cut off.
    """
    try:
        recipe = json.loads(_strings(path)[f"{PREFIX}recipe"])
        return frozenset(map(str, recipe["removed"] if recipe["stage"] in ("finetuned", "folded") else ()))
    except (KeyError, TypeError, ValueError, RecursionError):
        return None


def producers(path: str | Path) -> dict[str, tuple[str, str, str]]:
    """For each value that the graph of an ONNX file computes: (name, operator, first input) of the node that does."""
    model = memoryview(Path(path).read_bytes())
    found = {}
    for graph in _all(model, GRAPH):
        for node in _all(graph, NODE):
            fields = [(field, str(content, "utf-8")) for field, content in _fields(node) if field in (1, 2, 3, 4)]
            first = dict(reversed(fields))
            for output in (text for field, text in fields if field == 2):
                found[output] = (first.get(3, ""), first.get(4, ""), first.get(1, ""))
    return found


def _all(message: memoryview, wanted: int) -> Iterator[memoryview]:
    return (content for field, content in _fields(message) if field == wanted)


def _strings(path: str | Path) -> dict[str, str]:
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; give an ONNX file, as `python -m export` writes it")
    try:
        model = memoryview(Path(path).read_bytes())
        entries = [dict(_fields(content)) for field, content in _fields(model) if field == METADATA_PROPS]
        return {str(entry[1], "utf-8"): str(entry.get(2, b""), "utf-8") for entry in entries}
    except (IndexError, KeyError, ValueError) as error:
        raise InputError(f"{path}: not an ONNX file, or cut off; export it again") from error


def _value(path: str | Path, name: str, text: str) -> int | float | str:
    try:
        value = KINDS[name](text)
        if isinstance(value, str) or 0 <= value < math.inf:
            return value
    except ValueError:
        pass
    raise InputError(f"{path}: its metadata {PREFIX}{name} is {text!r}, which is no such number; export it again")


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of each field of a protobuf message; the content of a plain number is left empty."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        wire_type = tag & 7
        size = 0
        if wire_type == 0:
            _, at = _varint(message, at)
        elif wire_type == 2:
            size, at = _varint(message, at)
        else:
            size = {1: 8, 5: 4}[wire_type]
        if at + size > len(message):
            raise ValueError("cut off")
        yield tag >> 3, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """The number that starts at ``at``, seven bits a byte and the lowest first, and where it ends."""
    value = shift = 0
    while message[at] & 0x80:
        value |= (message[at] & 0x7F) << shift
        shift += 7
        at += 1
    return value | message[at] << shift, at + 1
