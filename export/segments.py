"""Candidate merged layers as ONNX files of one layer each, for `python -m trt_bench table` to time.

Layers of one shape take the same time, so each shape is written once; ``segments.json`` says which candidates it is.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from torch import nn

from export import metadata
from export.lower import lower
from export.passes import simplify
from fold.files import atomic_path, write_json

SCHEMA = 1


@dataclass(frozen=True)
class Segment:
    """A layer (or a few) that could stand in a network: its name, the module, and ``input_shape`` [C, H, W]."""

    name: str
    module: nn.Module
    input_shape: tuple[int, ...]


def write_segments(segments: Iterable[Segment], folder: Path, opset: int = 20, batch: int | None = None) -> dict:
    """Write an ONNX file for each distinct shape among ``segments`` into ``folder``, and ``segments.json`` last.

    Returns the content of ``segments.json``: ``{"schema": 1, "opset", "batch", "files": [{"file", "input_shape",
    "segments": [names]}]}``, in the order of first appearance. Files that are there already are kept, so an interrupted
    run goes on. Raises ``InputError`` and ``CheckError`` as `lower` does.
    """
    files: dict[str, dict] = {}
    for segment in segments:
        name = f"{_signature(segment, opset, batch)}.onnx"
        entry = files.setdefault(name, {"file": name, "input_shape": list(segment.input_shape), "segments": []})
        entry["segments"].append(segment.name)
        if not (folder / name).exists():
            _write(segment, folder / name, opset, batch)
    index = {"schema": SCHEMA, "opset": opset, "batch": batch, "files": list(files.values())}
    write_json(folder / "segments.json", index)
    return index


def _signature(segment: Segment, opset: int, batch: int | None) -> str:
    """A name that two segments share if they take the same time: same layers, same sizes, whatever the weights."""
    tensors = [(name, tuple(value.shape), str(value.dtype)) for name, value in segment.module.state_dict().items()]
    text = repr((segment.module, tensors, tuple(segment.input_shape), opset, batch))
    size = "x".join(map(str, segment.input_shape))
    return f"{type(segment.module).__name__.lower()}-{size}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _write(segment: Segment, path: Path, opset: int, batch: int | None) -> None:
    model = simplify(lower(segment.module, torch.zeros(1, *segment.input_shape), opset, batch))[0]
    metadata.write(model, {"precision": "fp32", "model": segment.name})
    with atomic_path(path) as temporary:
        onnx.save(model, temporary)
