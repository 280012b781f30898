"""All that needs a GPU, in ten minutes: ``python -m benchmarks.gpu_check``, or ``make gpu-check``.

Each part is a command of its own with a time limit. A part that fails does not keep the others from running. The parts
with TensorRT run where TensorRT or TensorRT-RTX serves the GPU, and say why where neither does. ``python -m
benchmarks.results FOLDER/gpu.json`` puts the times of PyTorch into docs/results.md.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks import document
from layer_folding import command_line
from layer_folding.errors import CheckError, InputError
from layer_folding.fold.reporting import table
from layer_folding.trt_bench.runtimes import choose

LIMIT_S = 180.0
SHOWN = 40  # last lines of what a part printed, kept in the document

EXAMPLE = """\
example: make gpu-check, or python -m benchmarks.gpu_check -o runs/gpu-check.json

exit codes: 0 all parts passed or had nothing to run on, 1 a part failed, 2 bad input
"""


@dataclass(frozen=True)
class Part:
    """Something that needs a GPU: the ``arguments`` of this Python, and why the part cannot run here, or nothing."""

    name: str
    arguments: tuple[str, ...]
    obstacle: str = ""


@dataclass(frozen=True)
class Outcome:
    """What came of a part: "passed", "failed (WHY)" or "skipped: WHY", its last lines, and how long it took."""

    part: str
    command: str
    result: str
    seconds: float
    lines: tuple[str, ...]


def parts(folder: Path, pytorch: Path) -> Iterator[Part]:
    """All parts, in the order that they need. They write into ``folder``, and `benchmarks.gpu` the file ``pytorch``."""
    run = folder / "run"
    runtime, because = choose("auto")  # TensorRT, else TensorRT-RTX, as far as they serve this GPU
    tensorrt = because.removeprefix("because ") if runtime.name == "onnxruntime" else ""
    yield Part("tests", ("-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-m", "gpu", *_tests()))
    yield Part("pytorch", ("-m", "benchmarks.gpu", "--seconds", "1", "-o", str(pytorch)))
    network = ("--model", "mobilenetv2-digits", "--data", "digits")
    yield Part("train", ("-m", "train", "pretrain", "--run", str(run), *network, "--epochs", "10"))
    yield Part("gates", ("-m", "train", "prefold", "--run", str(run), "--epochs", "8", "--lambda", "1"))
    yield Part("fine-tune", ("-m", "train", "finetune", "--run", str(run), "--epochs", "6"))
    yield Part("fold", ("-m", "fold", "fold", str(run)))
    checkpoints = [str(run / f"{name}.safetensors") for name in ("original", "folded")]
    yield Part(
        "export", ("-m", "export", "--precision", "fp32,fp16,int8", "--data", str(run / "eval.npz"), *checkpoints)
    )
    files = [str(run / f"{name}.onnx") for name in ("original", "folded")]
    cuda = ("--runtime", "onnxruntime", "--provider", "cuda", "--seconds", "1")
    yield Part("onnxruntime", ("-m", "trt_bench", "bench", *cuda, *files), _obstacle_of_onnxruntime())
    engines = ("--runtime", runtime.name, "--seconds", "1", "--cache", str(folder / "engines"))
    for precision in ("fp32", "fp16", "int8"):
        suffix = "" if precision == "fp32" else f".{precision}"
        files = [str(run / f"{name}{suffix}.onnx") for name in ("original", "folded")]
        profile = ("--export-profile", str(folder / f"profile-{precision}"))
        yield Part(f"tensorrt {precision}", ("-m", "trt_bench", "bench", *engines, *profile, *files), tensorrt)
    segments, latency = str(run / "segments"), str(run / "latency.csv")
    yield Part("segments", ("-m", "export", "segments", str(run)))
    yield Part("tensorrt table", ("-m", "trt_bench", "table", *engines, "-o", latency, segments), tensorrt)
    yield Part("tensorrt plan", ("-m", "fold", "plan", str(run), "--latency", latency), tensorrt)


def _obstacle_of_onnxruntime() -> str:
    try:
        import onnxruntime
    except ImportError:
        return "onnxruntime is not installed"
    has_cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    return "" if has_cuda else "this onnxruntime has no CUDA provider"


def _tests() -> Iterator[str]:
    root = Path(__file__).resolve().parents[1] / "tests"
    return (str(path) for path in sorted(root.rglob("test_gpu*.py")))


def run(part: Part, limit_s: float) -> Outcome:
    """Run ``part``, for ``limit_s`` seconds at most."""
    command = shlex.join(["python", *part.arguments])
    if part.obstacle:
        return Outcome(part.name, command, f"skipped: {part.obstacle}", 0.0, ())
    begun = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, *part.arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=limit_s,
            check=False,
        )
        output, result = done.stdout, "passed" if done.returncode == 0 else f"failed (exit code {done.returncode})"
    except subprocess.TimeoutExpired as expired:
        output, result = expired.stdout or b"", f"failed (more than {limit_s:.0f} s)"
    lines = output.decode(errors="replace").splitlines()[-SHOWN:]
    return Outcome(part.name, command, result, time.monotonic() - begun, tuple(lines))


def rows(outcomes: list[Outcome]) -> list[list[str]]:
    """A header, and a row for each part."""
    return [["part", "result", "seconds"], *([one.part, one.result, f"{one.seconds:.1f}"] for one in outcomes)]


def main(arguments: list[str] | None = None) -> None:
    """Run every part, print each as it ends. Raises CheckError where one failed."""
    parser = command_line.Parser(
        prog="python -m benchmarks.gpu_check",
        description=__doc__.partition("\n")[0],
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--limit", type=float, default=LIMIT_S, metavar="S", help="seconds for each part (%(default)g)")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="JSON", help="write what each part printed here, and gpu.json beside it"
    )
    options = parser.parse_args(arguments)
    document.check_output(options.output)
    if not torch.cuda.is_available():
        raise InputError("no GPU: PyTorch finds no CUDA device here; run this on a machine with one")
    gpu = document.gpu()
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as folder:
        kept = options.output.with_name("gpu.json") if options.output else Path(folder) / "gpu.json"
        for part in parts(Path(folder), kept):
            command_line.progress(part.name)
            outcomes.append(run(part, options.limit))
            command_line.progress("")
            failed = outcomes[-1].result.startswith("failed")
            print(*(outcomes[-1].lines if failed else ()), f"{part.name}: {outcomes[-1].result}", sep="\n", flush=True)
            if options.output:
                document.write(
                    options.output, "benchmarks.gpu_check", arguments, rows(outcomes), gpu=gpu, parts=outcomes
                )
    print(table(rows(outcomes)))
    failures = [one.part for one in outcomes if one.result.startswith("failed")]
    if failures:
        raise CheckError(f"failed: {', '.join(failures)}; what they printed is above")


if __name__ == "__main__":
    sys.exit(command_line.run(main))
