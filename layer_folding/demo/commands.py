"""The command ``demo``: the command lines that it runs, and nothing else."""

import argparse
import os
import shlex
from pathlib import Path

from .. import front_door, subcommands
from ..catalogue import need
from ..outputs import output_folder
from ..subcommands import Command

# Each is imported by a stage that may run minutes after the start.
_NEEDED = (
    "torch",
    "torchvision",
    "sklearn",
    "matplotlib",
    "onnx",
    "onnxscript",
    "onnx_graphsurgeon",
    "onnxruntime",
    "jinja2",
)


def main(arguments: list[str] | None = None, program: str = front_door.PROGRAM) -> None:
    """Run a command line of ``demo``. Raises InputError and CheckError."""
    subcommands.call(COMMANDS, arguments, program)


def lines(run: Path) -> list[list[str]]:
    """The command lines of the demo in the run folder ``run``, each without the program."""
    original, folded = str(run / "original"), str(run / "folded")
    images = str(run / "eval.npz")
    batch = ["--batch", "64"]
    return [
        ["pretrain", "--run", str(run), "--model", "mobilenetv2-digits", "--data", "digits", "--epochs", "10", *batch],
        ["prefold", "--run", str(run), "--epochs", "8", *batch],
        ["finetune", "--run", str(run), "--epochs", "6", "--distill", "0.5", *batch],
        ["fold", str(run)],
        ["export", "--data", images, f"{original}.safetensors", f"{folded}.safetensors"],
        ["bench", "--data", images, "-o", str(run / "bench.json"), f"{original}.onnx", f"{folded}.onnx"],
        ["report", str(run)],
    ]


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--run", type=Path, default=Path("runs/demo"), metavar="DIR", help="the run folder to write (%(default)s)"
    )


def _demo(given: argparse.Namespace) -> None:
    output_folder("--run", given.run)
    for module in _NEEDED:
        need("demo", module)
    # OpenMP threads that spin while they wait make PyTorch many times slower on a machine that does anything else.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for words in lines(given.run):
        print(f"\n$ {front_door.PROGRAM} {shlex.join(words)}", flush=True)
        front_door.call(words)
    print(f"\nfiles in {given.run}: original.onnx and folded.onnx to deploy, and report.html, one page with all of it")
    print(f"what is in each: {front_door.PROGRAM} show {shlex.quote(str(given.run))}")


COMMANDS = (
    Command(
        name="demo",
        description="Run all stages on handwritten digits: train a small MobileNetV2, learn which activations can go, "
        "fold, export, measure, report. Takes three minutes on two cores. Interrupted, the command goes on where it "
        "stopped. The images come with scikit-learn.",
        example="layer-folding demo\nlayer-folding demo --run runs/first",
        add_options=_options,
        function=_demo,
    ),
)
