"""The options of the subcommands."""

import argparse

from layer_folding.argument_types import capabilities, count, positive, positive_count


def bench(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("onnx", nargs="+", metavar="ONNX", help="ONNX files; the first is the baseline")
    parser.add_argument(
        "--data", metavar="NPZ", help="measure the accuracy as well, on the labelled images of this eval.npz"
    )
    parser.add_argument("--plan", metavar="JSON", help="compare with the speed-up that this plan.json predicts")
    _runtime(parser)
    _batches(parser)
    _tensorrt(parser)
    runs = _run(parser, seconds=3.0)
    runs.add_argument(
        "--in-flight",
        type=int,
        choices=(1, 2),
        default=1,
        help="inferences at a time: 1 shows the latency of one, 2 is the default of trtexec (%(default)s)",
    )
    parser.add_argument("-o", "--output", metavar="JSON", help="write the result to this file, bench.json")
    parser.add_argument(
        "--export-times", metavar="DIR", help="write the time of each inference into this folder, as trtexec does"
    )
    parser.add_argument(
        "--export-profile",
        metavar="DIR",
        help="time each layer in a second run, and write the times into this folder, as trtexec does",
    )


def build(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("onnx", nargs="+", metavar="ONNX", help="ONNX files")
    parser.add_argument(
        "--runtime",
        default="auto",
        choices=["auto", "tensorrt", "tensorrt-rtx"],
        help="builder of the engines; auto: TensorRT-RTX with --for, else the first of the two that is installed and "
        "finds a GPU (%(default)s)",
    )
    parser.add_argument(
        "--for",
        dest="capabilities",
        type=capabilities,
        default=(),
        metavar="SM[,SM]",
        help="compute capabilities to build for, such as sm86,sm89, with TensorRT-RTX; no GPU is needed here",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FOLDER",
        help="folder for a copy of each engine, NAME.engine or NAME-sm86.engine, for trtexec and your own programs",
    )
    _batches(parser)
    _tensorrt(parser)


def table(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "segments", metavar="SEGMENTS", help="folder with segments.json and the ONNX files of the segments"
    )
    parser.add_argument("-o", "--output", metavar="CSV", required=True, help="table to write: st,end,time,stdev (ms)")
    parser.add_argument(
        "--bound",
        type=positive,
        default=0.02,
        help="visit a segment until half its 95%% interval is below this fraction of its median (%(default)s)",
    )
    parser.add_argument(
        "--repeats",
        type=positive_count,
        default=5,
        help="visit a segment at most this often, until two visits agree (%(default)s)",
    )
    parser.add_argument("--force", action="store_true", help="go on even if the device is in another state than before")
    _runtime(parser)
    parser.add_argument("--batch", type=positive_count, default=1, help="images per inference (%(default)s)")
    _tensorrt(parser)
    _run(parser, seconds=0.5, what="segment")


def show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE", help="files that layer-folding wrote, or run folders")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="print a table for programs, with the file in each row")
    form.add_argument("--json", action="store_true", help="print everything that each file says, as a JSON list")
    parser.add_argument(
        "--force", action="store_true", help="compare bench results even if the device was in different states"
    )
    parser.add_argument(
        "--pictures",
        metavar="DIR",
        help="draw latencies and layers of bench results into this folder (needs matplotlib)",
    )


def _runtime(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--runtime",
        default="auto",
        choices=["auto", "onnxruntime", "tensorrt", "tensorrt-rtx"],
        help="runtime to measure with; auto: the first of TensorRT, TensorRT-RTX and ONNX Runtime that works on this "
        "machine (%(default)s)",
    )
    command.add_argument(
        "--provider", default="cpu", choices=["cpu", "cuda"], help="device of ONNX Runtime (%(default)s)"
    )
    command.add_argument("--threads", type=positive_count, default=1, help="CPU threads of ONNX Runtime (%(default)s)")


def _batches(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--batch",
        type=positive_count,
        nargs="+",
        default=[1],
        metavar="N",
        help="images per inference, one number or several (1)",
    )


def _tensorrt(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("TensorRT engines")
    group.add_argument("--workspace", type=positive_count, metavar="MIB", help="limit of scratch memory, in MiB (all)")
    group.add_argument("--level", type=int, choices=range(6), help="builder optimisation level (TensorRT's default)")
    group.add_argument("--dla", type=count, metavar="CORE", help="DLA core to run on; the GPU runs what the DLA cannot")
    group.add_argument("--cache", metavar="DIR", help="folder that keeps engines (~/.cache/layer-folding/engines)")


def _run(command: argparse.ArgumentParser, seconds: float, what: str = "network") -> argparse._ArgumentGroup:
    command.add_argument(
        "--seconds", type=positive, default=seconds, help=f"least time that each {what} is timed for (%(default)s)"
    )
    group = command.add_argument_group("TensorRT runs")
    group.add_argument("--no-cuda-graph", action="store_true", help="launch kernels one by one")
    group.add_argument("--no-transfers", action="store_true", help="leave input and output on the GPU")
    group.add_argument("--spin-wait", action="store_true", help="wait for the GPU with a busy CPU core")
    return group
