"""The command line's subcommands and options."""

import argparse
import math
from collections.abc import Callable

from trt_bench import cli

EXAMPLE = """\
examples:
  python -m trt_bench bench original.onnx folded.onnx
  python -m trt_bench bench original.onnx folded.onnx --data eval.npz -o bench.json
  python -m trt_bench bench original.onnx folded.onnx --plan plan.json
  python -m trt_bench build folded.onnx --batch 1 8
  python -m trt_bench table segments/ -o latency.csv
  python -m trt_bench show bench.json

exit codes: 0 done, 1 ran and failed a check, 2 bad input, 130 interrupted
"""


def parser(commands: dict[str, Callable[[argparse.Namespace], None]]) -> cli.Parser:
    """The parser of ``python -m trt_bench``; a subcommand's function is in ``command`` of what it parses."""
    top = cli.Parser(
        prog="python -m trt_bench",
        description="Measure the latency of ONNX networks on this device.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    adders = {"bench": _bench, "build": _build, "table": _table, "show": _show}
    subparsers = top.add_subparsers(required=True, metavar=f"{{{','.join(adders)}}}", dest="subcommand")
    for name, add in adders.items():
        add(subparsers).set_defaults(command=commands[name])
    return top


def _bench(subparsers) -> argparse.ArgumentParser:
    bench = subparsers.add_parser(
        "bench",
        help="time ONNX networks against each other",
        description="Time ONNX networks interleaved. The first is the baseline that the others are compared with.",
        epilog="example: python -m trt_bench bench original.onnx folded.onnx --data eval.npz -o bench.json",
    )
    bench.add_argument("onnx", nargs="+", metavar="ONNX", help="ONNX files; the first is the baseline")
    bench.add_argument("--data", metavar="NPZ", help="eval.npz of the export; measures the accuracy as well")
    bench.add_argument(
        "--plan", metavar="JSON", help="plan.json that was carried out: compare the speed-up that it predicts"
    )
    _runtime(bench)
    _batches(bench)
    _tensorrt(bench)
    _run(bench, seconds=3.0)
    bench.add_argument("-o", "--output", metavar="JSON", help="write bench.json here")
    bench.add_argument("--export-times", metavar="DIR", help="write each inference there, in trtexec's JSON")
    bench.add_argument(
        "--export-profile", metavar="DIR", help="time each layer in a second run, write it there in trtexec's JSON"
    )
    return bench


def _build(subparsers) -> argparse.ArgumentParser:
    build = subparsers.add_parser(
        "build",
        help="build TensorRT engines into the cache",
        description="Build the TensorRT engine of each ONNX file into the cache, check its precision, print its path.",
        epilog="example: python -m trt_bench build folded.onnx --batch 1 8",
    )
    build.add_argument("onnx", nargs="+", metavar="ONNX", help="ONNX files")
    _batches(build)
    _tensorrt(build)
    return build


def _table(subparsers) -> argparse.ArgumentParser:
    table = subparsers.add_parser(
        "table",
        help="measure a latency table for `python -m fold plan`",
        description="Time every segment of a folder that the export wrote. Interrupted, it goes on where it stopped.",
        epilog="example: python -m trt_bench table segments/ -o latency.csv",
    )
    table.add_argument("segments", metavar="SEGMENTS", help="folder with segments.json and the segments' ONNX files")
    table.add_argument("-o", "--output", metavar="CSV", required=True, help="write st,end,time,stdev (ms) here")
    table.add_argument(
        "--bound",
        type=_positive(float),
        default=0.02,
        help="visit a segment until half its 95%% interval is below this fraction of its median (%(default)s)",
    )
    table.add_argument(
        "--repeats", type=_positive(int), default=5, help="but at most so often (%(default)s); two have to agree"
    )
    table.add_argument("--force", action="store_true", help="go on though the device is in another state than before")
    _runtime(table)
    table.add_argument("--batch", type=_positive(int), default=1, help="images per inference (%(default)s)")
    _tensorrt(table)
    _run(table, seconds=0.5)
    return table


def _show(subparsers) -> argparse.ArgumentParser:
    show = subparsers.add_parser(
        "show",
        help="print the table of a bench.json again, compare several",
        description="Print the table of each bench.json; the networks of several are compared with the first's.",
        epilog="example: python -m trt_bench show bench.json --pictures pictures/",
    )
    show.add_argument("json", nargs="+", metavar="JSON", help="files that bench -o has written")
    show.add_argument("--force", action="store_true", help="compare though the device was in different states")
    show.add_argument("--pictures", metavar="DIR", help="draw latencies and layers there (needs matplotlib)")
    return show


def _runtime(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--runtime",
        default="auto",
        choices=["auto", "onnxruntime", "tensorrt"],
        help="auto: TensorRT where it is installed and a GPU is there, otherwise ONNX Runtime (%(default)s)",
    )
    command.add_argument(
        "--provider", default="cpu", choices=["cpu", "cuda"], help="what ONNX Runtime runs on (%(default)s)"
    )
    command.add_argument("--threads", type=_positive(int), default=1, help="CPU threads of ONNX Runtime (%(default)s)")


def _batches(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--batch", type=_positive(int), nargs="+", default=[1], metavar="N", help="images per inference, a list (1)"
    )


def _tensorrt(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("TensorRT engines")
    group.add_argument("--workspace", type=_positive(int), metavar="MIB", help="limit of scratch memory (all)")
    group.add_argument("--level", type=int, choices=range(6), help="builder optimisation level (TensorRT's default)")
    group.add_argument("--dla", type=_whole, metavar="CORE", help="run on this DLA core, on the GPU what it cannot do")
    group.add_argument("--cache", metavar="DIR", help="keep engines here (~/.cache/layer-folding/engines)")


def _run(command: argparse.ArgumentParser, seconds: float) -> None:
    command.add_argument(
        "--seconds", type=_positive(float), default=seconds, help="time each network for at least this (%(default)s)"
    )
    group = command.add_argument_group("TensorRT runs")
    group.add_argument("--no-cuda-graph", action="store_true", help="launch kernels one by one")
    group.add_argument("--no-transfers", action="store_true", help="leave input and output on the GPU")
    group.add_argument("--spin-wait", action="store_true", help="wait for the GPU with a busy CPU core")


def _positive(kind: type):
    def parse(text: str):
        value = kind(text)
        if not 0 < value < math.inf:
            raise ValueError(text)
        return value

    parse.__name__ = f"positive {'whole number' if kind is int else 'number'}"
    return parse


def _whole(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError(text)
    return value


_whole.__name__ = "whole number"
