"""Make an ONNX file faster without its PyTorch code and without labels: `layer-folding fit MODEL.onnx`.

This joins four stages: the planner, fitting and folding, the export, and the bench. So this module stands above them,
as `measuring_tables` does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import onnx
from torch import Tensor, nn

from layer_folding.export.exporting import export
from layer_folding.fold.devices import best_device
from layer_folding.fold.fitting.network_fit import FitResult, fit
from layer_folding.fold.fitting.sides import RefusedFit
from layer_folding.fold.folding import fold
from layer_folding.fold.onnx_in import OnnxNetwork, read_network
from layer_folding.fold.plan.fit_importances import going_on
from layer_folding.fold.planning import plan
from layer_folding.fold.regions.costs import depth
from layer_folding.trt_bench.benchmarking import bench

from .bench_results import BenchResult
from .errors import InputError
from .files import atomic_path
from .fit_choices import Choice
from .importance_tables import Importance, read_importance, write_importance
from .latency_tables import Table
from .measuring_tables import table
from .plans import Plan, write_plan

_OLDEST_OPSET = 17  # that networks are translated to


@dataclass(frozen=True)
class FasterFile:
    """A faster ONNX file ``path``: the ``plan`` for it, what was ``fitted``, weighted layers on the longest path before
    and after (``depth``), and both files timed against each other (``bench``). Fits that were ``left_out`` were planned
    first, and were worse than a constant behind the other fits of that plan."""

    path: Path
    plan: Plan
    fitted: FitResult
    depth: tuple[int, int]
    bench: BenchResult
    left_out: tuple[Choice, ...]


def fit_file(
    source: str | Path,
    images: Tensor,
    output: str | Path,
    *,
    speedup: float | None = None,
    budget_ms: float | None = None,
    runtime: Literal["auto", "onnxruntime", "tensorrt", "tensorrt-rtx"] = "auto",
    epochs: int = 0,
    seconds: float = 3.0,
    force: bool = False,
    progress: Callable[[str], None] = lambda text: None,
) -> FasterFile:
    """Write a network that computes nearly what the ONNX file ``source`` computes, and is faster on this machine.

    Its latency table is measured, each possible fit is tried, the plan that loses least within the limit is fitted to
    ``images`` and folded. The file that is written has the opset (17 for an older one), the batch size, the names of
    input and output and the metadata of ``source``. Its image size is that of ``images``. Table, importance and plan
    are kept in a folder beside ``output``, from which an interrupted call goes on.

    Args:
        source: an ONNX file with one float32 image as input.
        images: `[N, C, H, W]`, some hundred, as the network takes them; no labels.
        output: the file to write.
        speedup: the network is to be at least this many times as fast.
        budget_ms: the network is to take at most this long, in ms. Without a limit the plan is the fastest network.
        runtime: what it is timed on, as in `lf.table`.
        epochs: after the fits, all weights follow the outputs of ``source`` for so many epochs over the images.
        seconds: the least time for which both files are timed against each other.
        force: keep layers that are worse than a constant.
        progress: called with a phrase that says what is being done.

    Raises:
        InputError: the file cannot be read or converted, or the images do not fit it.
        CheckError: no plan without refused fits is that fast, or the new file is not what was folded.
    """
    source, output = Path(source), Path(output)
    if output.suffix != ".onnx" or output.resolve() == source.resolve():
        raise InputError(f"{output}: is not the name of a new ONNX file; give another one that ends in .onnx")
    network = read_network(source)
    example = images[:1]
    _require_image(source, network, example)
    model = network.model.eval()
    folder, opset = output.with_suffix(".fit"), max(network.opset, _OLDEST_OPSET)
    progress("latency table")
    latency = table(
        model, example, folder=folder, runtime=runtime, batch=network.batch or 1, opset=opset, progress=progress
    )
    model, images = model.to(best_device()), images.to(best_device())
    example = images[:1]
    loses = kept_importance(folder, source, model, images, latency, progress)
    left_out: list[Choice] = []
    fitted = None
    while fitted is None:
        possible = replace(loses, fits={choice: lost for choice, lost in loses.fits.items() if choice not in left_out})
        planned = plan(model, example, latency, speedup=speedup, budget_ms=budget_ms, importance=possible)
        write_plan(folder / "plan.json", planned)
        try:
            fitted = fit(model, images, planned, epochs=epochs, force=force, progress=progress)
        except RefusedFit as refused:  # alone it was not: planning knows each fit alone
            if refused.choice not in possible.fits:
                raise
            left_out.append(refused.choice)
    folded = fold(fitted.model.eval(), example).model
    progress("export")
    export(folded, example, output, opset=opset, batch=network.batch, images=images)
    _keep_interface(output, source, network)
    progress("timing")
    if None in network.shape:
        source = _with_size(source, example, folder / "original.onnx")
    timed = bench([source, output], runtime=runtime, batch=network.batch or 1, seconds=seconds, progress=progress)
    progress("")
    return FasterFile(output, planned, fitted, (depth(model, example), depth(folded, example)), timed, tuple(left_out))


def kept_importance(
    folder: Path, source: Path, model: nn.Module, images: Tensor, latency: Table, progress: Callable[[str], None]
) -> Importance:
    """What each fit of ``model``, the network of the ONNX file ``source``, loses: `lf.importance` with a table.

    It is kept in ``folder``, for this file with these images. Until all layers were fitted, the fits so far are in a
    file beside it, to go on from. Raises as `lf.importance` does.
    """
    path = folder / f"importance-{_digest(source, images)}.csv"
    if not path.exists():
        begun = path.with_suffix(".part.csv")
        known = read_importance(begun).fits if begun.exists() else {}
        keep = partial(write_importance, begun)
        write_importance(path, going_on(model, images, None, latency, known, keep, progress))
        begun.unlink(missing_ok=True)
    return read_importance(path)


def _digest(source: Path, images: Tensor) -> str:
    """What tells this network with these images from others."""
    return hashlib.sha256(source.read_bytes() + images.cpu().numpy().tobytes()).hexdigest()[:12]


def _with_size(source: Path, example: Tensor, path: Path) -> Path:
    """``source`` for images of the size of ``example`` alone, written to ``path``: a size that is open has no time."""
    file = onnx.load(source)
    axes = next(each for each in file.graph.input if each.type.tensor_type.HasField("shape")).type.tensor_type.shape.dim
    for axis, size in zip(axes[1:], example.shape[1:], strict=True):
        axis.dim_value = size
    del file.graph.value_info[:]
    with atomic_path(path) as temporary:
        onnx.save(onnx.shape_inference.infer_shapes(file), temporary)
    return path


def _require_image(source: Path, network: OnnxNetwork, example: Tensor) -> None:
    wanted = [size or given for size, given in zip(network.shape, example.shape[1:], strict=False)]
    if len(network.shape) != example.ndim - 1 or wanted != list(example.shape[1:]):
        raise InputError(f"{source}: takes images {list(network.shape)}, not {list(example.shape[1:])}; resize them")


def _keep_interface(output: Path, source: Path, network: OnnxNetwork) -> None:
    """Give the file ``output`` the names and the metadata of ``source``."""
    file, before = onnx.load(output), onnx.load(source, load_external_data=False)
    names = dict(zip((each.name for each in file.graph.output), network.outputs, strict=True))
    names[file.graph.input[0].name] = network.input
    taken = {name for node in file.graph.node for name in node.output} - names.keys()
    for name in taken & set(names.values()):
        names[name] = f"{name}_inside"
    for node in file.graph.node:
        for values in (node.input, node.output):
            values[:] = [names.get(name, name) for name in values]
    for value in (*file.graph.input, *file.graph.output, *file.graph.value_info):
        value.name = names.get(value.name, value.name)
    entries = {entry.key: entry.value for entry in (*before.metadata_props, *file.metadata_props)}
    onnx.helper.set_model_props(file, entries)
    onnx.checker.check_model(file)
    with atomic_path(output) as temporary:
        onnx.save(file, temporary)
