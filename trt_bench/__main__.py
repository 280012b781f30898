"""Command line: ``python -m trt_bench {bench,build,table,show}``."""

import argparse
import sys
import tempfile
from pathlib import Path

from trt_bench import arguments, cli
from trt_bench.errors import InputError


def main() -> None:
    """Parse the command line and run the subcommand. Raises InputError."""
    given = arguments.parser({"bench": _bench, "build": _build, "table": _table, "show": _show}).parse_args()
    given.command(given)


def _bench(given: argparse.Namespace) -> None:
    from trt_bench import bench, prediction, profile, report, results, runtimes, trace

    if given.output:
        _writable(given.output, ".json")
    for folder in filter(None, (given.export_times, given.export_profile)):
        _writable(f"{folder}/x.json", ".json", option=f"DIR {folder}")
    plan = prediction.load(given.plan) if given.plan else None
    runtime, reason = runtimes.choose(given.runtime, given.provider)
    options = _options(given, given.batch)
    what = bench.Bench(given.seconds, given.data, profile=bool(given.export_profile))
    result, traces = bench.bench(given.onnx, runtime, reason, options, what, cli.progress)
    try:
        for model, inferences in zip(result["models"], traces, strict=True):
            name = f"{model['name']}-batch{model['batch']}"
            if given.export_times:
                trace.export(f"{given.export_times}/{name}.times.json", inferences)
            if given.export_profile:
                profile.export(f"{given.export_profile}/{name}.profile.json", model["profile"])
        if given.output:
            results.save(given.output, result)
        if plan:
            result["prediction"] = prediction.compare(plan, result, runtime, options, cli.progress)
            if given.output:
                results.save(given.output, result)
    finally:  # whatever befell the files, the measurement was made
        print(report.table(result))


def _build(given: argparse.Namespace) -> None:
    from trt_bench import runtimes

    runtime, _ = runtimes.choose("tensorrt")
    for path in given.onnx:
        built = runtime.open_engine(path, _options(given, given.batch)).built
        cli.progress("")
        state = "in the cache" if built["from_cache"] else f"built in {built['build_s']:.0f} s"
        layers = ", ".join(f"{count} {name}" for name, count in built["layers_by_precision"].items())
        print(f"{path}: {built['engine']}: {state}; {built['engine_bytes'] / 1e6:.1f} MB; layers: {layers}", flush=True)


def _table(given: argparse.Namespace) -> None:
    from trt_bench import runtimes, table

    _writable(given.output, ".csv")
    runtime, reason = runtimes.choose(given.runtime, given.provider)
    how = table.How(given.seconds, given.bound, given.repeats, given.force)
    print(
        table.measure(given.segments, given.output, runtime, reason, _options(given, [given.batch]), how, cli.progress)
    )


def _show(given: argparse.Namespace) -> None:
    from trt_bench import pictures, report, results

    loaded = {path: results.load(path) for path in given.json}
    print("\n\n".join(report.table(result) for result in loaded.values()))
    lines = report.across(loaded, given.force)
    if given.pictures:
        lines += pictures.draw(loaded, given.pictures)
    if lines:
        print("", *lines, sep="\n")


def _options(given: argparse.Namespace, batches: list[int]):
    from trt_bench.runtimes import Options

    return Options(
        batches=tuple(dict.fromkeys(batches)),
        threads=getattr(given, "threads", 1),
        provider=getattr(given, "provider", "cpu"),
        cuda_graph=not getattr(given, "no_cuda_graph", False),
        transfers=not getattr(given, "no_transfers", False),
        spin_wait=getattr(given, "spin_wait", False),
        workspace_mib=given.workspace,
        level=given.level,
        dla=given.dla,
        cache=Path(given.cache) if given.cache else None,
        progress=cli.progress,
    )


def _writable(path: str, suffix: str, option: str | None = None) -> None:
    """Make the folder of ``path``; raises InputError before minutes of timing if the result cannot be written to it."""
    option = option or f"-o {path}"
    if Path(path).suffix != suffix or Path(path).is_dir():  # -o original.onnx would destroy the network
        raise InputError(f"{option}: is no name for the result; give a file that ends in {suffix}")
    folder = Path(path).absolute().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(f"{option}: cannot be written ({error.strerror}); name a folder that is yours") from error


if __name__ == "__main__":
    sys.exit(cli.run(main))
