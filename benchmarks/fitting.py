"""What fits lose and cost: ``python -m benchmarks.fitting``, ResNet-20 without any training, some minutes.

One in-block activation after the other, four and all nine go, each with its two 3x3 convolutions, and one 3x3 comes to
stand there. Each case has a process of its own, so that its peak memory is its own.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import torch

from benchmarks import document
from benchmarks.measure import Progress
from benchmarks.resources import peak_bytes
from layer_folding import command_line, records
from layer_folding.argument_types import count, positive_count
from layer_folding.fold import fit
from layer_folding.fold.reporting import table
from layer_folding.train import inputs, loop
from layer_folding.train.batches import normalise
from layer_folding.train.data import MOST_CALIBRATION_IMAGES, Dataset, calibration_images
from layer_folding.train.settings import DataSettings

MODEL, SHAPE = "resnet20", 3
BLOCKS = tuple(f"layer{stage}.{block}" for stage in (1, 2, 3) for block in (0, 1, 2))
CASES: Mapping[str, tuple[str, ...]] = {
    **{block: (block,) for block in BLOCKS},
    "four": ("layer1.0", "layer1.1", "layer2.1", "layer2.2"),
    "nine": BLOCKS,
}

EXAMPLE = """\
examples:
  python -m benchmarks.fitting --weights resnet20.pt --data cifar10/ -o runs/fitting.json
  python -m benchmarks.fitting --weights resnet20.pt --data cifar10/ --cases layer2.1 nine

exit codes: 0 done, 1 a fit is worse than a constant, 2 bad input, 130 interrupted
"""


@dataclass(frozen=True)
class Fitted:
    """A network with fitted layers: ``accuracy`` on all test images, 0 to 1, and the ``seconds`` that the fit took.

    ``divergence`` (nats) and ``agreement`` (0 to 1) with the original are those of `lf.FitResult`.
    """

    accuracy: float
    seconds: float
    divergence: float
    agreement: float


@dataclass(frozen=True)
class Measured:
    """One case: the accuracy of the original, and the fits without and with tuning.

    ``peak_bytes`` is the most memory that the process had in the fits, PyTorch itself and the images included.
    """

    original: float
    least_squares: Fitted
    tuned: Fitted
    peak_bytes: int


def measure(blocks: Sequence[str], weights: Path, dataset: Dataset) -> Measured:
    """Fit ``blocks`` to all training images of ``dataset``, without and with tuning."""
    model = inputs.network(MODEL, dataset, weights, seed=0).model.eval()
    images = normalise(dataset.train.images, dataset.mean, dataset.std)
    choices = {f"{block}.relu": SHAPE for block in blocks}
    fits, seconds = [], []
    for tuned in (False, True):
        start = time.perf_counter()
        fits.append(fit(model, images, choices, tuned=tuned))
        seconds.append(time.perf_counter() - start)
    peak = peak_bytes()
    found = [
        Fitted(loop.accuracy(each.model, dataset), took, each.divergence, each.agreement)
        for each, took in zip(fits, seconds, strict=True)
    ]
    return Measured(loop.accuracy(model, dataset), *found, peak)


def run(name: str, weights: Path, dataset: Dataset, progress: Progress) -> Measured:
    """`measure` the case ``name`` in a process of its own."""
    progress(f"{name}: fitted without and with tuning, and tested")
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        measured = process.submit(measure, CASES[name], weights, dataset).result()
    progress("")
    return measured


def rows(results: Mapping[str, Measured]) -> list[list[str]]:
    """A header and a row for each case: accuracies in %, seconds, peak memory."""
    header = ["blocks", "original", "least squares", "tuned", "seconds", "seconds, tuned", "peak memory"]
    return [header, *(_row(name, measured) for name, measured in results.items())]


def _row(name: str, measured: Measured) -> list[str]:
    accuracies = (measured.original, measured.least_squares.accuracy, measured.tuned.accuracy)
    seconds = (measured.least_squares.seconds, measured.tuned.seconds)
    return [
        name,
        *(f"{100 * accuracy:.2f} %" for accuracy in accuracies),
        *(f"{value:.1f}" for value in seconds),
        f"{measured.peak_bytes / 2**20:.0f} MiB",
    ]


def main(arguments: list[str] | None = None) -> None:
    """Measure the cases that were named, and print their table. Raises InputError and CheckError as `lf.fit` does."""
    parser = command_line.Parser(
        prog="python -m benchmarks.fitting", description=__doc__.partition("\n")[0], epilog=EXAMPLE
    )
    parser.add_argument("--weights", type=Path, required=True, metavar="FILE", help="weights of ResNet-20")
    parser.add_argument("--data", required=True, help="what they were trained on, as for `layer-folding pretrain`")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=[*CASES], help="blocks, four, nine (all)")
    parser.add_argument(
        "--images", type=positive_count, default=MOST_CALIBRATION_IMAGES,
        help="training images to fit to (%(default)s, as the run folder of a large data set has)",
    )  # fmt: skip
    parser.add_argument("--seed", type=count, default=0, help="draws the images (%(default)s)")
    parser.add_argument("-o", "--output", type=Path, metavar="JSON", help="write all that was measured here")
    options = parser.parse_args(arguments)
    document.check_output(options.output)
    dataset = inputs.dataset(DataSettings(data=options.data))
    small = replace(dataset, train=calibration_images(dataset, options.images, options.seed))
    del dataset
    results: dict[str, Measured] = {}
    for name in options.cases:
        results[name] = run(name, options.weights, small, command_line.progress)
        if options.output:  # after each, as all of them take minutes, and may be interrupted
            document.write(
                options.output, "benchmarks.fitting", arguments, rows(results),
                threads=torch.get_num_threads(), measured=records.as_json(results),
            )  # fmt: skip
    print(table(rows(results)))


if __name__ == "__main__":
    sys.exit(command_line.run(main))
