"""The commands ``bench``, ``build``, ``table`` and ``show``."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from layer_folding import command_line, subcommands
from layer_folding.errors import InputError
from layer_folding.outputs import BENCH, LATENCY_TABLE, output_file, output_folder
from layer_folding.subcommands import Command

from . import arguments

if TYPE_CHECKING:
    from .runtimes import Options


def main(arguments: list[str] | None = None, program: str = "python -m trt_bench") -> None:
    """Run a command line of ``bench``, ``build``, ``table`` or ``show``. Raises InputError."""
    subcommands.call(COMMANDS, arguments, program)


def require_outputs(given: argparse.Namespace) -> None:
    """Raise InputError where a command line of ``bench`` or ``table`` cannot write its results where it is to."""
    is_table = hasattr(given, "segments")
    if given.output:
        output_file(
            "-o", given.output, LATENCY_TABLE if is_table else BENCH, filter(None, [getattr(given, "plan", None)])
        )
    for option, name in (("--export-times", "export_times"), ("--export-profile", "export_profile")):
        if getattr(given, name, None):
            output_folder(option, getattr(given, name))


def _bench(given: argparse.Namespace) -> None:
    from layer_folding import bench_results

    from . import inference_times, measuring, prediction, printing, profile, runtimes

    require_outputs(given)
    plan = prediction.load(given.plan) if given.plan else None
    runtime, reason = runtimes.choose(given.runtime, given.provider)
    options = _options(given, given.batch)
    what = measuring.Bench(given.seconds, given.data, profile=bool(given.export_profile))
    measured = measuring.measure(given.onnx, runtime, reason, options, what, command_line.progress)
    result = measured.result
    if given.data and result.settings.data is None:
        print(f"note: {given.data} has no labels, so no accuracy was measured", file=sys.stderr)
    try:
        for model, trace in zip(result.models, measured.traces, strict=True):
            name = f"{model.name}-batch{model.batch}"
            if given.export_times:
                inference_times.export(f"{given.export_times}/{name}.times.json", trace)
            if model.profile:
                profile.export(f"{given.export_profile}/{name}.profile.json", model.profile)
        if given.output:
            bench_results.save(given.output, result)
        if plan:
            compared = prediction.compare(plan, result, runtime, options, command_line.progress)
            result = replace(result, prediction=compared)
            if given.output:
                bench_results.save(given.output, result)
    finally:  # whatever befell the files, the measurement was made
        print(printing.table(result))


def _build(given: argparse.Namespace) -> None:
    from . import engine_copies, printing, runtimes

    copies = engine_copies.names(given.output, given.onnx, given.capabilities) if given.output else {}
    builder = runtimes.choose_builder(given.runtime, given.capabilities)
    options = _options(given, given.batch)
    for path in given.onnx:
        for capability in given.capabilities or [None]:
            if capability is None:
                built = builder.open_engine(path, options).built
            else:
                built = builder.build_engine(path, options, capability)
            command_line.progress("")
            print(printing.engine_line(path, capability, built), flush=True)
            if copies:
                print(f"  wrote {engine_copies.write(built, copies[path, capability])}", flush=True)


def _table(given: argparse.Namespace) -> None:
    from . import runtimes, table_report, tables

    require_outputs(given)
    runtime, reason = runtimes.choose(given.runtime, given.provider)
    how = tables.How(given.seconds, given.bound, given.repeats, given.force)
    options = _options(given, [given.batch])
    measured = tables.measure(given.segments, given.output, runtime, reason, options, how, command_line.progress)
    print(table_report.as_text(measured))


def _show(given: argparse.Namespace) -> None:
    from layer_folding import bench_results

    from . import pictures, printing
    from .showing import result_sheets, sheets, show_file

    if given.pictures:
        output_folder("--pictures", given.pictures)
    found = [show_file(path) for path in dict.fromkeys(given.files)]
    loaded = {sheet.path: bench_results.load(sheet.path) for sheet in found if sheet.kind == result_sheets.BENCH}
    if given.pictures and not loaded:
        raise InputError(f"--pictures: {found[0].path} has the kind {found[0].kind}; give a bench.json")
    if given.csv:
        print(sheets.as_csv(found))
    elif given.json:
        print(sheets.as_json(found))
    else:
        print("\n\n".join(map(sheets.as_text, found)))
    lines = printing.across(loaded, force=given.force) if len(loaded) > 1 and not (given.csv or given.json) else []
    if given.pictures:
        lines += pictures.draw(loaded, given.pictures)
    if lines:
        print("", *lines, sep="\n")


def _options(given: argparse.Namespace, batches: list[int]) -> "Options":
    from .runtimes import Options

    return Options(
        batches=tuple(dict.fromkeys(batches)),
        threads=getattr(given, "threads", 1),
        provider=getattr(given, "provider", "cpu"),
        cuda_graph=not getattr(given, "no_cuda_graph", False),
        transfers=not getattr(given, "no_transfers", False),
        in_flight=getattr(given, "in_flight", 1),
        spin_wait=getattr(given, "spin_wait", False),
        workspace_mib=given.workspace,
        level=given.level,
        dla=given.dla,
        cache=Path(given.cache) if given.cache else None,
        progress=command_line.progress,
    )


COMMANDS = (
    Command(
        name="bench",
        description="Time ONNX networks interleaved, and compare each with the first, the baseline.",
        example="layer-folding bench original.onnx folded.onnx\n"
        "layer-folding bench original.onnx folded.onnx --data eval.npz --plan plan.json -o bench.json",
        add_options=arguments.bench,
        function=_bench,
    ),
    Command(
        name="build",
        description="Build the engine of each ONNX file into the cache, check its precision, print its path. "
        "TensorRT builds for the GPU of this machine. TensorRT-RTX also builds without a GPU, for the GPUs that --for "
        "names.",
        example="layer-folding build folded.onnx --batch 1 8\n"
        "layer-folding build folded.onnx --runtime tensorrt-rtx --for sm86,sm89 -o engines/",
        add_options=arguments.build,
        function=_build,
    ),
    Command(
        name="table",
        description="Time every segment of a folder that `layer-folding segments` wrote, for `layer-folding plan`. "
        "An interrupted table goes on where it stopped.",
        example="layer-folding table segments/ -o latency.csv",
        add_options=arguments.table,
        function=_table,
    ),
    Command(
        name="show",
        description="Tell what is in a file that layer-folding wrote: a checkpoint, an ONNX file, a latency table, a "
        "plan, importances, a bench.json or a fold.json. For a run folder, list the files. For several bench "
        "results, compare the networks with those of the first result.",
        example="layer-folding show runs/demo/folded.safetensors\n"
        "layer-folding show runs/demo/original.onnx runs/demo/folded.onnx --csv\n"
        "layer-folding show runs/demo\n"
        "layer-folding show before.json after.json --pictures pictures/",
        add_options=arguments.show,
        function=_show,
    ),
)
