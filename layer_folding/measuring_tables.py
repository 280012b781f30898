"""Measure the latency table of a network on this machine: `lf.table`.

This joins three stages: the planner's segments, the export and the bench. So this module stands above them, and only
`layer_folding.__getattr__` imports it, when `lf.table` is first used.
"""

import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from layer_folding.export.segment_files import write_segments
from layer_folding.fold.devices import on_cpu
from layer_folding.fold.plan.candidates import segments
from layer_folding.trt_bench import runtimes, tables

from .latency_tables import Table


def table(
    model: nn.Module,
    example: Tensor,
    *,
    folder: str | Path | None = None,
    precision: Literal["fp32", "fp16", "int8", "int8-fp16"] = "fp32",
    batch: int = 1,
    runtime: Literal["auto", "onnxruntime", "tensorrt", "tensorrt-rtx"] = "auto",
    provider: Literal["cpu", "cuda"] = "cpu",
    threads: int = 1,
    opset: int = 20,
    seconds: float = 0.5,
    bound: float = 0.02,
    repeats: int = 5,
    progress: Callable[[str], None] = lambda text: None,
) -> Table:
    """Measure what each segment of ``model`` takes on this machine, for `lf.plan`.

        >>> import torch, layer_folding as lf
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 1))
        >>> example = torch.rand(1, 3, 16, 16)
        >>> table = lf.table(model, example, folder="run", seconds=0.01, repeats=2)
        >>> table.complete
        True

    A network with a few hundred segments takes some minutes, on a machine that does nothing else.

    Args:
        model: the trained network with its activations in place; it is not modified.
        example: one input batch `[batch, in, *spatial]`; only its shape matters.
        folder: gets ``segments/``, ``latency.csv`` and ``latency.json``. A measurement that was interrupted goes on
            there, and `lf.read_table` reads the table again. Without a folder no file is kept.
        precision: precision of the segments; a plan by the table is for this precision.
        batch: images per inference.
        runtime: ``auto`` is the first of TensorRT, TensorRT-RTX and ONNX Runtime that works on this machine.
        provider: what ONNX Runtime runs on.
        threads: CPU threads of ONNX Runtime.
        opset: ONNX opset of the segments; 17 for TensorRT 8.6.
        seconds: each visit to a segment is timed for this long.
        bound: a segment is visited until half its 95 % interval is below this fraction of its median.
        repeats: a segment is visited at most this often.
        progress: called with a phrase that says what is being done.

    Raises:
        InputError: the network cannot be traced or exported, the runtime cannot run here, or ``folder`` has a table
            that was begun with other settings.
        CheckError: a segment computes NaN or infinity in this precision.
    """
    chosen, reason = runtimes.choose(runtime, provider)
    options = runtimes.Options(batches=(batch,), threads=threads, provider=provider, progress=progress)
    how = tables.How(seconds, bound, repeats)
    with contextlib.ExitStack() as stack:
        place = Path(folder or stack.enter_context(tempfile.TemporaryDirectory()))
        write_segments(segments(on_cpu(model), example.cpu()), place / "segments", opset=opset, precision=precision)
        return tables.measure(place / "segments", place / "latency.csv", chosen, reason, options, how, progress).table
