"""Write what a plan has to know the time of, merged layers and layers as they are, as ONNX files of a few layers each.

`layer-folding table` times them. The same layers with the same shapes take the same time and are written once.
"""

import argparse
import hashlib
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import fx
from tqdm import tqdm

from layer_folding.argument_types import count, positive_count
from layer_folding.files import atomic_path
from layer_folding.fold.graph.nodes import module_of
from layer_folding.fold.networks import add_input, add_trust, open_network
from layer_folding.fold.plan import candidates
from layer_folding.fold.plan.naming import Segment
from layer_folding.outputs import output_folder
from layer_folding.segment_index import SegmentFile, SegmentIndex, write_index
from layer_folding.subcommands import Command

from . import onnx_metadata
from .fp16 import halved, to_fp16
from .int8 import quantise_segment
from .lowering import lower
from .precision import QUANTISED, TOLERANCES, require_scales
from .simplifying import simplify


def write_segments(
    segments: Iterable[Segment],
    folder: str | Path,
    *,
    opset: int = 20,
    batch: int | None = None,
    precision: str = "fp32",
) -> SegmentIndex:
    """Write an ONNX file for each distinct shape among ``segments`` into ``folder``, and ``segments.json`` last.

    The index that is returned has the files in the order of first appearance. Files that are there already are kept,
    so an interrupted run goes on. ``batch`` None leaves the batch size open. ``precision`` is one of TOLERANCES
    (`export.precision`). Segments in int8 have the pairs that their layers have in the whole network, calibrated on
    noise: no time depends on the scales. Raises InputError and CheckError as `lower` and `to_fp16` do.
    """
    require_scales(precision, opset)
    files: dict[str, SegmentFile] = {}
    for segment in segments:
        name = f"{_signature(segment, opset, batch, precision)}.onnx"
        known = files.get(name, SegmentFile(name, segment.input_shape, ()))
        files[name] = replace(known, names=(*known.names, segment.name))
        if not (Path(folder) / name).exists():
            _write(segment, Path(folder) / name, opset, batch, precision)
    index = SegmentIndex(opset, batch, tuple(files.values()))
    write_index(folder, index)
    return index


def _signature(segment: Segment, opset: int, batch: int | None, precision: str) -> str:
    """A name that two segments share if they take the same time: same layers, same sizes, whatever their names and
    their weights."""
    number = {node: i for i, node in enumerate(segment.module.graph.nodes)}
    steps = [(_operation(node), repr(fx.node.map_arg((node.args, node.kwargs), number.__getitem__))) for node in number]
    tensors = [(tuple(tensor.shape), str(tensor.dtype)) for tensor in segment.module.state_dict().values()]
    ends = (segment.feeds_layer,) if precision in QUANTISED else ()
    text = repr((steps, tensors, tuple(segment.input_shape), opset, batch, precision, *ends))
    size = "x".join(map(str, segment.input_shape))
    return f"segment-{size}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _operation(node: fx.Node) -> str:
    """What ``node`` does, whatever the names of modules, inputs and parameters are."""
    if node.op == "call_module":
        return repr(module_of(node))
    if callable(node.target):
        return torch.typename(node.target)
    return f"{node.op} {node.target if node.op == 'call_method' else ''}"


def _write(segment: Segment, path: Path, opset: int, batch: int | None, precision: str) -> None:
    model = simplify(lower(segment.module, torch.zeros(1, *segment.input_shape), opset, batch))[0]
    if precision == "fp16":
        model = to_fp16(model)
    if precision in QUANTISED:
        noise = np.random.default_rng(0).standard_normal((batch or 2, *segment.input_shape), dtype=np.float32)
        model = quantise_segment(model, noise, feeds_layer=segment.feeds_layer)
        model = model if precision == "int8" else halved(model)
    onnx_metadata.write(model, {"precision": precision, "model": segment.name})
    with atomic_path(path) as temporary:
        onnx.save(model, temporary)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("network", help="run folder (for its original network), checkpoint, or name of a network")
    add_input(parser)
    add_trust(parser)
    parser.add_argument("--opset", type=count, default=20, help="ONNX opset; TensorRT 8.6 needs 17 (%(default)s)")
    parser.add_argument("--batch", type=positive_count, help="fix the batch size (default: any)")
    parser.add_argument("--precision", choices=TOLERANCES, default="fp32", help="precision of the files (%(default)s)")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="folder to write to (NETWORK/segments)")


def _segments(options: argparse.Namespace) -> None:
    model, shape = open_network(options.network, options.input, options.trust)
    folder = output_folder("-o", options.output or Path(options.network) / "segments")
    found = list(candidates.segments(model, torch.zeros(1, *shape)))
    bar = tqdm(found, "exporting segments", leave=False, disable=not sys.stderr.isatty())
    index = write_segments(bar, folder, opset=options.opset, batch=options.batch, precision=options.precision)
    print(f"wrote {folder}: {len(index.segments)} segments to time")


COMMAND = Command(
    name="segments",
    description="Write the segments whose latency a plan needs as ONNX files: layers as they are, and merged or "
    "fitted. `layer-folding table` times the files. In int8 the segments are quantised as in the full network.",
    example="layer-folding segments runs/demo --precision int8\n"
    "layer-folding segments torchvision:mobilenet_v2 --input 3 224 224 -o segments/",
    add_options=_options,
    function=_segments,
)
