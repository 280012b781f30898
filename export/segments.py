"""Write what a plan has to know the time of, merged layers and layers as they are, as ONNX files of a few layers each.

`python -m trt_bench table` times them. The same layers with the same shapes take the same time and are written once.
"""

import hashlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from torch import nn
from tqdm import tqdm

from export import metadata
from export.fp16 import to_fp16
from export.lower import lower
from export.passes import simplify
from fold import candidates
from fold.cli import Parser
from fold.files import atomic_path, write_json
from fold.network import add_named, open_network

_EPILOG = """\
examples:
  python -m export segments runs/demo
  python -m export segments torchvision:mobilenet_v2 --input 3 224 224 -o segments/

then: python -m trt_bench table runs/demo/segments -o runs/demo/latency.csv
Exit codes: 0 done, 1 a segment cannot be exported as asked, 2 bad input.
"""

SCHEMA = 1


def main(arguments: list[str] | None = None) -> None:
    parser = Parser(prog="python -m export segments", description=__doc__, epilog=_EPILOG)
    parser.add_argument("network", help="a run folder, whose original network is meant, a checkpoint, or a name")
    parser.add_argument("--input", type=int, nargs="+", metavar="N", help="C H W of one image, for a name")
    add_named(parser)
    parser.add_argument("--opset", type=int, default=20, help="17 for TensorRT 8.6 (%(default)s)")
    parser.add_argument("--batch", type=int, help="fix the batch size (default: any)")
    parser.add_argument("--precision", choices=["fp32", "fp16"], default="fp32", help="(%(default)s)")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="(default: NETWORK/segments)")
    options = parser.parse_args(arguments)
    model, shape = open_network(options.network, options.input, options.model)
    folder = options.output or Path(options.network) / "segments"
    found = [Segment(*each) for each in candidates.segments(model, torch.zeros(1, *shape))]
    bar = tqdm(found, "exporting segments", leave=False, disable=not sys.stderr.isatty())
    index = write_segments(bar, folder, options.opset, options.batch, options.precision)
    print(f"wrote {folder}: {len(index['segments'])} segments to time")


@dataclass(frozen=True)
class Segment:
    """A layer (or a few) that could stand in a network: its name, the module, and ``input_shape`` [C, H, W]."""

    name: str
    module: nn.Module
    input_shape: tuple[int, ...]


def write_segments(
    segments: Iterable[Segment], folder: Path, opset: int = 20, batch: int | None = None, precision: str = "fp32"
) -> dict:
    """Write an ONNX file for each distinct shape among ``segments`` into ``folder``, and ``segments.json`` last.

    Returns the content of ``segments.json``: ``{"schema": 1, "opset", "batch", "segments": [{"file", "input_shape",
    "names"}]}``, in the order of first appearance. Files that are there already are kept, so an interrupted run goes
    on. Raises ``InputError`` and ``CheckError`` as `lower` and `to_fp16` do.
    """
    files: dict[str, dict] = {}
    for segment in segments:
        name = f"{_signature(segment, opset, batch, precision)}.onnx"
        entry = files.setdefault(name, {"file": name, "input_shape": list(segment.input_shape), "names": []})
        entry["names"].append(segment.name)
        if not (folder / name).exists():
            _write(segment, folder / name, opset, batch, precision)
    index = {"schema": SCHEMA, "opset": opset, "batch": batch, "segments": list(files.values())}
    write_json(folder / "segments.json", index)
    return index


def _signature(segment: Segment, opset: int, batch: int | None, precision: str) -> str:
    """A name that two segments share if they take the same time: same layers, same sizes, whatever the weights."""
    tensors = [(name, tuple(value.shape), str(value.dtype)) for name, value in segment.module.state_dict().items()]
    text = repr((segment.module, tensors, tuple(segment.input_shape), opset, batch, precision))
    size = "x".join(map(str, segment.input_shape))
    return f"{type(segment.module).__name__.lower()}-{size}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _write(segment: Segment, path: Path, opset: int, batch: int | None, precision: str) -> None:
    model = simplify(lower(segment.module, torch.zeros(1, *segment.input_shape), opset, batch))[0]
    if precision == "fp16":
        model = to_fp16(model)
    metadata.write(model, {"precision": precision, "model": segment.name})
    with atomic_path(path) as temporary:
        onnx.save(model, temporary)
