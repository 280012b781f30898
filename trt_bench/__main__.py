"""Command line: ``python -m trt_bench {bench,show}``."""

import argparse
import math
import sys
import tempfile
from pathlib import Path

from trt_bench import cli
from trt_bench.errors import InputError

EXAMPLE = """\
examples:
  python -m trt_bench bench original.onnx folded.onnx
  python -m trt_bench bench original.onnx folded.onnx --data eval.npz -o bench.json
  python -m trt_bench show bench.json

exit codes: 0 done, 1 ran and failed a check, 2 bad input, 130 interrupted
"""


def main() -> None:
    """Parse the command line and run the subcommand. Raises InputError."""
    arguments = _parser().parse_args()
    arguments.command(arguments)


def _bench(arguments: argparse.Namespace) -> None:
    from trt_bench import bench, report, results, runtimes

    if arguments.output:
        _writable(arguments.output)
    runtime, reason = runtimes.choose(arguments.runtime)
    result = bench.bench(
        arguments.onnx,
        runtime,
        reason,
        batch=arguments.batch,
        seconds=arguments.seconds,
        threads=arguments.threads,
        data=arguments.data,
        progress=cli.progress,
    )
    try:
        if arguments.output:
            results.save(arguments.output, result)
    finally:  # whatever befell the file, the measurement was made
        print(report.table(result))


def _show(arguments: argparse.Namespace) -> None:
    from trt_bench import report, results

    print("\n\n".join(report.table(results.load(path)) for path in arguments.json))


def _writable(path: str) -> None:
    """Make the folder of ``path``; raises InputError before minutes of timing if the result cannot be written to it."""
    if Path(path).suffix != ".json" or Path(path).is_dir():  # -o original.onnx would destroy the network
        raise InputError(f"-o {path}: is no name for the result; give a file that ends in .json")
    folder = Path(path).absolute().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(f"-o {path}: cannot be written ({error.strerror}); name a folder that is yours") from error


def _parser() -> argparse.ArgumentParser:
    parser = cli.Parser(
        prog="python -m trt_bench",
        description="Measure the latency of ONNX networks on this device.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="{bench,show}", dest="subcommand")
    bench = commands.add_parser(
        "bench",
        help="time ONNX networks against each other",
        description="Time ONNX networks interleaved. The first is the baseline that the others are compared with.",
        epilog="example: python -m trt_bench bench original.onnx folded.onnx --data eval.npz -o bench.json",
    )
    bench.add_argument("onnx", nargs="+", metavar="ONNX", help="ONNX files; the first is the baseline")
    bench.add_argument(
        "--runtime",
        default="auto",
        choices=["auto", "onnxruntime", "tensorrt"],
        help="auto: TensorRT where it is installed and a GPU is there, otherwise ONNX Runtime on the CPU (%(default)s)",
    )
    bench.add_argument("--batch", type=_positive(int), default=1, help="images per inference (%(default)s)")
    bench.add_argument("--data", metavar="NPZ", help="eval.npz of the export; measures the accuracy as well")
    bench.add_argument(
        "--seconds", type=_positive(float), default=3.0, help="time each network for at least this long (%(default)s)"
    )
    bench.add_argument("--threads", type=_positive(int), default=1, help="CPU threads of ONNX Runtime (%(default)s)")
    bench.add_argument("-o", "--output", metavar="JSON", help="write bench.json here")
    bench.set_defaults(command=_bench)
    show = commands.add_parser(
        "show",
        help="print the table of a bench.json again",
        description="Print the table of each bench.json.",
        epilog="example: python -m trt_bench show bench.json",
    )
    show.add_argument("json", nargs="+", metavar="JSON", help="files that bench -o has written")
    show.set_defaults(command=_show)
    return parser


def _positive(kind: type):
    def parse(text: str):
        value = kind(text)
        if not 0 < value < math.inf:
            raise ValueError(text)
        return value

    parse.__name__ = f"positive {'whole number' if kind is int else 'number'}"
    return parse


if __name__ == "__main__":
    sys.exit(cli.run(main))
