"""Command line: ``python -m benchmarks [NAME...]``, from the root of the checkout."""

import argparse
import sys
from pathlib import Path

import torch

from benchmarks import document, epoch, export, folding, gates, kernels, report
from layer_folding import command_line
from layer_folding.errors import InputError
from layer_folding.fold.reporting import table

BENCHMARKS = {
    "epoch": epoch.run,
    "export": export.run,
    "fold": folding.run,
    "gates": gates.run,
    "kernels-resnet": kernels.resnet,
    "kernels-vgg": kernels.vgg,
}

EXAMPLE = """\
benchmarks:
  epoch           part of an epoch of prefold on 32x32 images against per-image PIL transforms, a minute
  export          simplifying three ONNX files beside onnxsim and onnxslim, with the nodes that each leaves, a minute
  fold            fold.fold from end to end on ResNet-20 and ResNet-56, half a minute
  gates           a training step of ResNet-20 with gates against one without, half a minute
  kernels-resnet  merged kernels by autograd and by fold.affine at the widths of ResNet-20 and -56, half a minute
  kernels-vgg     the same at the widths of VGG16, ten minutes

examples:
  python -m benchmarks
  python -m benchmarks fold kernels-resnet -o runs/benchmarks.json

exit codes: 0 done, 1 a check failed, 2 bad input, 130 interrupted
"""


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmarks that were named, print their table and write their samples. Raises InputError."""
    parser = command_line.Parser(
        prog="python -m benchmarks",
        description="Measure side by side what this toolchain claims about its own speed, on the CPU.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(BENCHMARKS)} (all)")
    parser.add_argument("-o", "--output", type=Path, metavar="JSON", help="write all samples here")
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in BENCHMARKS:
            raise InputError(f"benchmark {name!r} is unknown; give one of {', '.join(BENCHMARKS)}")
    document.check_output(options.output)
    results = {}
    for name in options.names or BENCHMARKS:
        results[name] = BENCHMARKS[name](command_line.progress)
        if options.output:  # after each, as all of them take minutes, and may be interrupted
            document.write(
                options.output, "benchmarks", arguments, report.rows(results),
                threads=torch.get_num_threads(), samples=report.samples(results),
            )  # fmt: skip
    print(table(report.rows(results)), flush=True)


if __name__ == "__main__":
    sys.exit(command_line.run(main))
