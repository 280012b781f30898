"""The commands ``export``, ``segments`` and ``sensitivity``."""

import argparse
import itertools
import sys
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

import onnx
import torch

from layer_folding import subcommands
from layer_folding.argument_types import count, names, non_negative, positive_count
from layer_folding.catalogue import need
from layer_folding.command_line import progress
from layer_folding.errors import CheckError, InputError
from layer_folding.evalset import EvalSet, read_evalset
from layer_folding.fold.checkpoints import load
from layer_folding.fold.networks import add_trust
from layer_folding.outputs import NETWORK, PICTURE, SENSITIVITIES, output_file
from layer_folding.subcommands import Command

from . import onnx_metadata, segment_files, sensitivity_results
from .accuracy_control import Controlled, control
from .calibrate import METHODS
from .converting import with_batch, with_opset
from .exporting import Exported, Source, source_of, write
from .lowering import lower
from .onnx_reading import read_onnx
from .precision import QUANTISED, TOLERANCES, Calibration, read_calibration, require_calibration
from .sensitivity import sensitivity
from .simplifying import PASSES, table


def main(arguments: list[str] | None = None, program: str = "python -m") -> None:
    """Run a command line of ``export``, ``segments`` or ``sensitivity``. Raises InputError and CheckError."""
    subcommands.call(COMMANDS, arguments, program)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "networks", nargs="+", type=Path, metavar="NETWORK", help="a .safetensors file of a run, or an .onnx file"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        help="folder to write to, or for one network a file NAME.onnx (default: beside the network)",
    )
    parser.add_argument(
        "--precision",
        type=names(TOLERANCES),
        default=["fp32"],
        metavar="P,P",
        help="precisions of the files: fp32, fp16, int8, or int8-fp16, which is int8 with the rest in fp16 (fp32)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="EVAL.NPZ",
        help="images to compare on, and to measure accuracy where they have labels",
    )
    parser.add_argument(
        "--opset", type=count, help="opset of the new file; TensorRT 8.6 needs 17 (20; a given ONNX file keeps its own)"
    )
    add_trust(parser)
    parser.add_argument("--batch", type=positive_count, help="fix the batch size (default: any)")
    parser.add_argument("--dynamic-size", action="store_true", help="leave a checkpoint's image height and width open")
    parser.add_argument(
        "--skip", type=names(PASSES), default=[], metavar="PASS,PASS", help=f"leave out passes: {', '.join(PASSES)}"
    )
    parser.add_argument(
        "--keep", type=names(), default=[], metavar="NODE,NODE", help="nodes or operators that stay in fp32"
    )
    parser.add_argument(
        "--calibration", type=Path, metavar="NPZ", help="images for int8 (default: calib.npz beside the network)"
    )
    parser.add_argument(
        "--method", choices=METHODS, default=METHODS[0], help="calibration method of int8 (%(default)s)"
    )
    parser.add_argument(
        "--images", type=positive_count, default=512, help="number of images to calibrate with (%(default)s)"
    )
    parser.add_argument("--seed", type=count, default=0, help="seed for drawing the images (%(default)s)")
    parser.add_argument(
        "--max-drop", type=non_negative, metavar="X",
        help="points of accuracy on --data that int8 may cost; the layers that cost most stay out of int8",
    )  # fmt: skip


def _export(options: argparse.Namespace) -> None:
    targets = _targets(options.networks, options.output, options.precision)
    evalset = read_evalset(options.data) if options.data else None
    if options.max_drop is not None and (evalset is None or not QUANTISED & set(options.precision)):
        raise InputError("--max-drop: is about int8, and measured on labelled images; give --precision int8 and --data")
    if evalset is not None and evalset.labels is None:
        if options.max_drop is not None:
            raise InputError(f"--max-drop: is measured by labels, and {options.data} has none; leave --max-drop out")
        print(f"note: {options.data} has no labels, so the files get no accuracy of their own", file=sys.stderr)
    if QUANTISED & set(options.precision):
        for path in options.networks:
            require_calibration(_calibration_file(path, options))  # before minutes of work
    for path, files in zip(options.networks, targets, strict=True):
        try:
            source = _open(path, options, evalset)
            print(table(source.before, source.after), file=sys.stderr)
            kept: Controlled | None = None  # the same for all precisions with int8
            for precision, target in zip(options.precision, files, strict=True):
                calibration = None
                if precision in QUANTISED:
                    images = _calibration_file(path, options)
                    calibration = read_calibration(images, options.method, options.images, options.seed)
                if kept is None:
                    kept = _controlled(source, calibration, evalset, options.max_drop, options.keep)
                layers = kept.layers if kept and calibration else ()
                written = write(
                    source, precision, target,
                    evalset=evalset, calibration=calibration, keep=options.keep, unquantised=layers,
                )  # fmt: skip
                print(_in_words(written, evalset, kept if calibration else None), flush=True)
        except (CheckError, InputError) as error:
            raise type(error)(str(error) if str(error).startswith(("--", str(path))) else f"{path}: {error}") from error


def _calibration_file(path: Path, options: argparse.Namespace) -> Path:
    return options.calibration or path.with_name("calib.npz")


def _controlled(
    source: Source,
    calibration: Calibration | None,
    evalset: EvalSet | None,
    max_drop: float | None,
    keep: Collection[str],
) -> Controlled | None:
    """What --max-drop comes to for a file that is calibrated; None without it."""
    if max_drop is None or calibration is None or evalset is None:
        return None
    return control(source.simple, calibration, evalset, max_drop, keep=keep, progress=progress)


def _open(path: Path, options: argparse.Namespace, evalset: EvalSet | None) -> Source:
    if path.suffix == ".onnx":
        if options.dynamic_size:
            raise InputError("--dynamic-size is for checkpoints; an ONNX file keeps its sizes")
        read = read_onnx(path, convertible=options.opset is not None)
        given = read if options.opset is None else with_opset(read, options.opset)
        given = given if options.batch is None else with_batch(given, options.batch)
        _check_images(given, evalset)
        return source_of(given, read, skip=options.skip)
    model, recipe = load(path, options.trust)
    example = torch.zeros(1, *recipe.input_shape)
    lowered = lower(
        model, example, 20 if options.opset is None else options.opset, options.batch, dynamic_size=options.dynamic_size
    )
    _check_images(lowered, evalset)
    return source_of(lowered, model, metadata=onnx_metadata.describe(model, recipe), skip=options.skip)


def _check_images(model: onnx.ModelProto, evalset: EvalSet | None) -> None:
    if evalset is not None:
        _check_shape(model, evalset.images.shape[1:])


def _check_shape(model: onnx.ModelProto, images: Sequence[int]) -> None:
    """Raise InputError where ``model`` does not take ``images`` [C, H, W] alone."""
    shape, found = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:]], list(images)
    if len(model.graph.input) > 1:
        raise InputError(f"--data: the network takes {len(model.graph.input)} inputs, not images alone; leave it out")
    if len(shape) != len(found) or any(n not in (0, m) for n, m in zip(shape, found, strict=True)):
        raise InputError(f"--data: images of {found}, but the network takes {shape}; give the eval.npz of the same run")


def _in_words(written: Exported, evalset: EvalSet | None, kept: Controlled | None) -> str:
    before, after = written.nodes
    # 5 % up, so that the two digits printed are never below the error
    words = [f"{before} => {after} nodes", f"passes at tolerance {1.05 * written.error:.1e}"]
    if written.accuracy is not None and evalset is not None:
        words.append(f"accuracy {100 * written.accuracy:.2f} % of {len(evalset.images)} images")
    if kept is not None:
        layers = f": {', '.join(kept.layers)}" if kept.layers else ""
        words.append(f"drops by {kept.drop:.2f} points with {len(kept.layers)} layers out of int8{layers}")
    size = written.path.stat().st_size
    words.append(f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB")
    return f"{written.path}: {'; '.join(words)}"


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
    for base, times in Counter(bases).items():
        if times > 1:
            raise InputError(f"--output: {times} networks would all become {base}; export them one at a time")
    if len(precisions) == 1 and bases == [output]:
        targets = [bases]  # the name that was asked for
    else:
        targets = [[base if p == "fp32" else base.with_suffix(f".{p}.onnx") for p in precisions] for base in bases]
    for target in itertools.chain(*targets):
        output_file("-o", target, NETWORK, networks)
    return targets


def _sensitivity_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("network", type=Path, metavar="NETWORK", help="a .safetensors file of a run, or an .onnx file")
    parser.add_argument(
        "--data", type=Path, metavar="NPZ",
        help="images to calibrate with and to compare on (default: calib.npz beside the network)",
    )  # fmt: skip
    parser.add_argument(
        "--method", choices=METHODS, default=METHODS[0], help="calibration method of int8 (%(default)s)"
    )
    parser.add_argument(
        "--images", type=positive_count, default=512, help="number of images to calibrate with (%(default)s)"
    )
    parser.add_argument("--seed", type=count, default=0, help="seed for drawing the images (%(default)s)")
    add_trust(parser)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="CSV",
        help="table to write, with a bar chart beside it (default: beside the network)",
    )
    parser.set_defaults(opset=None, batch=None, dynamic_size=False, skip=[])


def _sensitivity(options: argparse.Namespace) -> None:
    need("sensitivity", "matplotlib")
    path: Path = options.network
    target = output_file("-o", options.output or path.with_name(f"{path.stem}.sensitivity.csv"), SENSITIVITIES, [path])
    picture = output_file("-o", target.with_suffix(".png"), PICTURE)
    data = options.data or path.with_name("calib.npz")
    calibration = read_calibration(data, options.method, options.images, options.seed, "--data")
    source = _open(path, options, None)
    _check_shape(source.simple, calibration.images.shape[1:])
    found = sensitivity(source.simple, calibration, progress)
    sensitivity_results.write_csv(target, found)
    sensitivity_results.draw(picture, found, path.name)
    print(f"{sensitivity_results.as_text(found)}\nwrote {target} and {picture}")


COMMANDS = (
    Command(
        name="export",
        description="Write simplified ONNX files from checkpoints or ONNX files, in each of the precisions. Each file "
        "is compared with its network before the file gets its name. One line for each file says the nodes before and "
        "after, the smallest tolerance at which the file passes, and with --data the accuracy. Nodes by operator go to "
        "stderr. The first failure ends the command; files written before the failure stay. If a check fails (exit "
        "code 1), an older file of the same name is renamed to NAME.onnx.old. Bad input (exit code 2) leaves an older "
        "file as it is.",
        example="layer-folding export runs/demo/original.safetensors runs/demo/folded.safetensors\n"
        "layer-folding export runs/demo/folded.safetensors --precision fp32,fp16,int8 --data runs/demo/eval.npz\n"
        "layer-folding export runs/demo/folded.safetensors --precision int8 --data runs/demo/eval.npz --max-drop 0.5\n"
        "layer-folding export model.onnx -o simple.onnx",
        add_options=_options,
        function=_export,
    ),
    segment_files.COMMAND,
    Command(
        name="sensitivity",
        description="Say what int8 costs in each layer of a network: how far the outputs are off with only this layer "
        "in int8, and with all layers but this one. Write NETWORK.sensitivity.csv and a bar chart of the same name.",
        example="layer-folding sensitivity runs/demo/folded.safetensors\n"
        "layer-folding sensitivity model.onnx --data calib.npz -o sensitivity.csv",
        add_options=_sensitivity_options,
        function=_sensitivity,
    ),
)
