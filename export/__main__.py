"""Write checkpoints, or ONNX files, as ONNX: simplified, in the precisions asked for, and compared with what they were
made from before they get their names.
"""

import argparse
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from torch import nn

from export import metadata, segments
from export.calibrate import METHODS
from export.check import accuracy, check
from export.lower import lower
from export.passes import PASSES, simplify, table
from export.precision import TOLERANCES, Calibration, convert
from export.source import read_onnx
from fold.checkpoint import load
from fold.cli import Parser, run
from fold.errors import CheckError, InputError
from fold.evalset import EvalSet, read_evalset
from fold.files import atomic_path

_CHECKED_IMAGES = 256  # of the evaluation set; the check is about arithmetic, not about accuracy

_EPILOG = """\
examples:
  python -m export runs/demo/original.safetensors runs/demo/folded.safetensors
  python -m export runs/demo/folded.safetensors --precision fp32,fp16,int8 --data runs/demo/eval.npz
  python -m export model.onnx -o simple.onnx
  python -m export segments runs/demo  (what a plan has to know the time of; see its --help)

The first writes runs/demo/original.onnx and runs/demo/folded.onnx, the second folded.onnx, folded.fp16.onnx and
folded.int8.onnx. What each says: nodes before and after simplifying, the smallest tolerance at which it passes the
check, and with --data its accuracy; the number of nodes for each operator goes to stderr. The first that fails ends the
command; files written before it stay. Where a check fails (exit code 1), an older file of that name is renamed to
NAME.onnx.old, so that nobody takes it for the new one. Bad input (exit code 2) leaves it as it is.
"""


@dataclass(frozen=True)
class _Source:
    """A network to export: as ONNX, what it is compared with, and what is known of it."""

    lowered: onnx.ModelProto
    reference: nn.Module | onnx.ModelProto
    metadata: dict[str, object]


def main(arguments: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["segments"]:
        return segments.main(arguments[1:])
    options = _parser().parse_args(arguments)
    targets = _targets(options.networks, options.output, options.precision)
    evalset = read_evalset(options.data) if options.data else None
    for path, names in zip(options.networks, targets, strict=True):
        try:
            source = _open(path, options)
            _check_images(source.lowered, evalset)
            simple, before, after = simplify(source.lowered, options.skip)
            print(table(before, after), file=sys.stderr)
            calibration = Calibration(
                options.calibration or path.with_name("calib.npz"), options.method, options.images, options.seed
            )
            for precision, target in zip(options.precision, names, strict=True):
                line = _write(simple, precision, target, source, evalset, calibration, options.keep)
                print(f"{target}: {before.total()} => {after.total()} nodes; {line}", flush=True)
        except (CheckError, InputError) as error:
            raise type(error)(str(error) if str(error).startswith(("--", str(path))) else f"{path}: {error}") from error


def _parser() -> Parser:
    parser = Parser(prog="python -m export", description=__doc__, epilog=_EPILOG)
    parser.add_argument(
        "networks", nargs="+", type=Path, metavar="NETWORK", help="a .safetensors file of a run, or an .onnx file"
    )
    parser.add_argument(
        "-o", "--output", type=Path, help="a folder, or a name.onnx for one network (default: beside the checkpoint)"
    )
    parser.add_argument(
        "--precision", type=_names(TOLERANCES), default=["fp32"], metavar="P,P", help="fp32, fp16, int8 (fp32)"
    )
    parser.add_argument("--data", type=Path, metavar="EVAL.NPZ", help="compare on these images too; measure accuracy")
    parser.add_argument(
        "--opset", type=int, default=20, help="of a checkpoint's ONNX; 17 for TensorRT 8.6 (%(default)s)"
    )
    parser.add_argument("--model", metavar="SPEC", help="the network's own code, if it was made by package.module:fn")
    parser.add_argument("--batch", type=int, help="fix the batch size of a checkpoint (default: any)")
    parser.add_argument("--dynamic-size", action="store_true", help="leave a checkpoint's image height and width open")
    parser.add_argument(
        "--skip", type=_names(PASSES), default=[], metavar="PASS,PASS", help=f"do not run: {', '.join(PASSES)}"
    )
    parser.add_argument(
        "--keep", type=_names(None), default=[], metavar="NODE,NODE", help="nodes or operators that stay in fp32"
    )
    parser.add_argument(
        "--calibration", type=Path, metavar="NPZ", help="images for int8 (default: calib.npz beside the network)"
    )
    parser.add_argument("--method", choices=METHODS, default=Calibration.method, help="of calibrating (%(default)s)")
    parser.add_argument("--images", type=int, default=Calibration.count, help="to calibrate with (%(default)s)")
    parser.add_argument("--seed", type=int, default=Calibration.seed, help="that draws them (%(default)s)")
    return parser


def _open(path: Path, options: argparse.Namespace) -> _Source:
    if path.suffix == ".onnx":
        if options.opset != 20 or options.batch or options.dynamic_size:
            raise InputError("--opset, --batch and --dynamic-size are for checkpoints; an ONNX file keeps its own")
        model = read_onnx(path)
        return _Source(model, model, {})
    model, recipe = load(path, options.model)
    example = torch.zeros(1, *recipe["input_shape"])
    lowered = lower(model, example, options.opset, options.batch, options.dynamic_size)
    return _Source(lowered, model, metadata.describe(model, recipe))


def _check_images(model: onnx.ModelProto, evalset: EvalSet | None) -> None:
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:]]
    found = list(evalset.images.shape[1:]) if evalset else shape
    if evalset and len(model.graph.input) > 1:
        raise InputError(f"--data: the network takes {len(model.graph.input)} inputs, not images alone; leave it out")
    if len(shape) != len(found) or any(n not in (0, m) for n, m in zip(shape, found, strict=True)):
        raise InputError(f"--data: images of {found}, but the network takes {shape}; give the set of that run")


def _write(
    simple: onnx.ModelProto,
    precision: str,
    target: Path,
    source: _Source,
    evalset: EvalSet | None,
    calibration: Calibration,
    keep: list[str],
) -> str:
    """Write one precision; ``target`` appears only after it has passed the check. Returns what to say of it."""
    try:
        model, said = convert(simple, precision, calibration, keep)
        with atomic_path(target) as temporary:
            images = None if evalset is None else evalset.inputs(_CHECKED_IMAGES)
            if images is None and precision == "int8":  # its ranges are those of images, not of noise
                images = calibration.images()[:_CHECKED_IMAGES]
            error = check(source.reference, model, images, TOLERANCES[precision], noise=precision != "int8")
            if evalset is not None:
                said["accuracy"] = accuracy(model, evalset)
            metadata.write(model, source.metadata | said)
            onnx.save(model, temporary)
    except CheckError as error:
        raise CheckError(f"{error}{_set_aside(target)}") from error
    # 5 % up, so that the two digits printed are never below the error
    words = [f"passes at tolerance {1.05 * error:.1e}", _size(target)]
    if evalset is not None:
        words.insert(1, f"accuracy {100 * said['accuracy']:.2f} % of {len(evalset.labels)} images")
    return "; ".join(words)


def _targets(networks: list[Path], output: Path | None, precisions: list[str]) -> list[list[Path]]:
    """The files to write for each network, one for each precision."""
    if output is not None and output.suffix == ".onnx" and not output.is_dir():
        if len(networks) > 1:
            raise InputError(f"--output: {output} is one file for {len(networks)} networks; give a folder")
        bases = [output]
    elif output is not None and output.exists() and not output.is_dir():
        raise InputError(f"--output: {output} is neither a folder nor a name that ends in .onnx")
    else:
        bases = [(output or path.parent) / f"{path.stem}.onnx" for path in networks]
    for base, count in Counter(bases).items():
        if count > 1:
            raise InputError(f"--output: {count} networks would all become {base}; export them one at a time")
    for base, path in zip(bases, networks, strict=True):
        if base.resolve() == path.resolve():
            raise InputError(f"--output: {path} would overwrite itself; give another name with -o")
    return [[base if p == "fp32" else base.with_suffix(f".{p}.onnx") for p in precisions] for base in bases]


def _names(known: object):
    def parse(text: str) -> list[str]:
        names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
        unknown = [name for name in names if known is not None and name not in known]
        if unknown or not names:
            raise argparse.ArgumentTypeError(
                f"{', '.join(unknown) or 'nothing'} is not one of {', '.join(known or [])}"
            )
        return names

    return parse


def _set_aside(target: Path) -> str:
    if not target.is_file():
        return f"; {target} was not written"
    old = target.with_name(f"{target.name}.old")
    target.replace(old)
    return f"; {target} was not written, and the one from before is now {old.name}"


def _size(path: Path) -> str:
    size = path.stat().st_size
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


if __name__ == "__main__":
    sys.exit(run(main))
