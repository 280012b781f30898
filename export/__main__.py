"""Write checkpoints as ONNX files, each simplified and compared with PyTorch before it gets its name."""

import sys
from collections import Counter
from pathlib import Path

import onnx
import torch

from export.check import check
from export.lower import lower
from export.metadata import describe
from export.passes import simplify
from fold.checkpoint import load
from fold.cli import Parser, run
from fold.errors import CheckError, InputError
from fold.evalset import EvalSet, read_evalset
from fold.files import atomic_path

_CHECKED_IMAGES = 256  # of the evaluation set; the check is about arithmetic, not about accuracy

_EPILOG = """\
example:
  python -m export runs/demo/original.safetensors runs/demo/folded.safetensors

writes runs/demo/original.onnx and runs/demo/folded.onnx. The first that fails ends the command; files written before
it stay. Where a check fails (exit code 1), an older file of that name is renamed to NAME.onnx.old, so that nobody
takes it for the new one. Bad input (exit code 2) leaves it as it is.
"""


def main(arguments: list[str] | None = None) -> None:
    parser = Parser(prog="python -m export", description=__doc__, epilog=_EPILOG)
    parser.add_argument("checkpoints", nargs="+", type=Path, metavar="CHECKPOINT", help="a .safetensors file of a run")
    parser.add_argument(
        "-o", "--output", type=Path, help="a folder, or a name.onnx for one checkpoint (default: beside the checkpoint)"
    )
    parser.add_argument("--opset", type=int, default=20, help="ONNX operator set (default: %(default)s)")
    parser.add_argument("--data", type=Path, metavar="EVAL.NPZ", help="compare on these images too, not only on noise")
    parser.add_argument("--model", metavar="SPEC", help="the network's own code, if it was made by package.module:fn")
    options = parser.parse_args(arguments)
    targets = _targets(options.checkpoints, options.output)
    evalset = read_evalset(options.data) if options.data else None
    for source, target in zip(options.checkpoints, targets, strict=True):
        try:
            print(export(source, target, options.opset, evalset, options.model), flush=True)
        except CheckError as error:
            raise CheckError(f"{source}: {error}{_set_aside(target)}") from error


def export(source: Path, target: Path, opset: int, evalset: EvalSet | None, named: str | None = None) -> str:
    """Export one checkpoint; ``target`` appears only after it has passed the check. Returns the line to print."""
    model, recipe = load(source, named)
    images = None if evalset is None else evalset.inputs(_CHECKED_IMAGES)
    if images is not None and list(images.shape[1:]) != list(recipe["input_shape"]):
        raise InputError(
            f"--data: images of {list(images.shape[1:])}, but {source} takes {list(recipe['input_shape'])}; "
            "give the evaluation set of that run"
        )
    try:
        lowered = lower(model, torch.zeros(2, *recipe["input_shape"]), opset)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    proto, before, after = simplify(lowered)
    onnx.helper.set_model_props(proto, describe(model, recipe))
    with atomic_path(target) as temporary:
        onnx.save(proto, temporary)
        error = check(model, temporary, images)
    # 5 % up, so that the two digits printed are never below the error
    return f"{target}: {_operators(before, after)}; passes at tolerance {1.05 * error:.1e}; {_size(target)}"


def _targets(checkpoints: list[Path], output: Path | None) -> list[Path]:
    if output is not None and output.suffix == ".onnx" and not output.is_dir():
        if len(checkpoints) > 1:
            raise InputError(f"--output: {output} is one file for {len(checkpoints)} checkpoints; give a folder")
        return [output]
    if output is not None and output.exists() and not output.is_dir():
        raise InputError(f"--output: {output} is neither a folder nor a name that ends in .onnx")
    targets = [(output or path.parent) / f"{path.stem}.onnx" for path in checkpoints]
    for target, count in Counter(targets).items():
        if count > 1:
            raise InputError(f"--output: {count} checkpoints would all become {target}; export them one at a time")
    return targets


def _set_aside(target: Path) -> str:
    if not target.is_file():
        return f"; {target} was not written"
    old = target.with_name(f"{target.name}.old")
    target.replace(old)
    return f"; {target} was not written, and the one from before is now {old.name}"


def _operators(before: Counter, after: Counter) -> str:
    changes = [
        f"{operator} {before[operator]}" + (f" => {after[operator]}" if before[operator] != after[operator] else "")
        for operator in sorted(before | after)
    ]
    return f"{before.total()} => {after.total()} operators ({', '.join(changes)})"


def _size(path: Path) -> str:
    size = path.stat().st_size
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


if __name__ == "__main__":
    sys.exit(run(main))
