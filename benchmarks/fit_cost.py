"""What a fit costs: ``python -m benchmarks.fit_cost``, random weights and images, ten minutes.

Every block of ResNet-20 at 32 pixels and of MobileNetV2 at 224 becomes one 3x3. Each network has a process of its own,
so that its peak memory is its own.
"""

import sys
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch

from benchmarks import document
from benchmarks.fitting import BLOCKS
from benchmarks.measure import Progress
from benchmarks.resources import peak_bytes
from layer_folding import command_line, records
from layer_folding.argument_types import positive_count
from layer_folding.fit_choices import Choice
from layer_folding.fold import fit
from layer_folding.fold.model_names import build
from layer_folding.fold.plan.fit_importances import fit_losses
from layer_folding.fold.reporting import table

EXAMPLE = """\
examples:
  python -m benchmarks.fit_cost -o runs/fit-cost.json
  python -m benchmarks.fit_cost --networks resnet20 --images 512

exit codes: 0 done, 2 bad input, 130 interrupted
"""


@dataclass(frozen=True)
class Case:
    """A network, and the activations that go, block by block. ``images`` of ``pixels`` x ``pixels`` are fitted to."""

    spec: str
    blocks: tuple[tuple[str, ...], ...]
    images: int
    pixels: int


CASES: Mapping[str, Case] = {
    "resnet20": Case("resnet20", tuple((f"{block}.relu",) for block in BLOCKS), 1024, 32),
    "mobilenet_v2": Case(
        "torchvision:mobilenet_v2",
        (
            ("features.1.conv.0.2",),
            *((f"features.{stage}.conv.0.2", f"features.{stage}.conv.1.2") for stage in range(2, 18)),
        ),
        512,
        224,
    ),
}


@dataclass(frozen=True)
class Cost:
    """What one fit took: ``seconds`` without and with tuning, and the most memory that the process had.

    PyTorch itself and the images count. ``alone_seconds`` is the time in which each block is fitted alone, and what the
    network loses by it is measured, as `lf.importance` does.
    """

    blocks: int
    images: int
    seconds: float
    tuned_seconds: float
    alone_seconds: float
    peak_bytes: int


def measure(case: Case, images: int) -> Cost:
    """Fit every block of ``case`` to random images: together, without and with tuning, and each alone."""
    torch.manual_seed(0)
    model = build(case.spec, {"num_classes": 10}).eval()
    drawn = torch.randn(images, 3, case.pixels, case.pixels)
    seconds = []
    for tuned in (False, True):
        start = time.perf_counter()
        fit(model, drawn, dict.fromkeys(case.blocks, 3), tuned=tuned, force=True)
        seconds.append(time.perf_counter() - start)
    start = time.perf_counter()
    for _ in fit_losses(model, drawn, None, [Choice(block, 3) for block in case.blocks]):
        pass
    seconds.append(time.perf_counter() - start)
    return Cost(len(case.blocks), images, *seconds, peak_bytes())


def run(name: str, images: int | None, progress: Progress) -> Cost:
    """`measure` the case ``name`` in a process of its own, with its own number of images unless ``images`` is given."""
    case = CASES[name]
    progress(f"{name}: {len(case.blocks)} blocks, fitted without and with tuning, and each alone")
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        cost = process.submit(measure, case, images or case.images).result()
    progress("")
    return cost


def rows(costs: Mapping[str, Cost]) -> list[list[str]]:
    """A header and a row for each network."""
    header = ["network", "blocks", "images", "seconds", "seconds, tuned", "seconds, each alone", "peak memory"]
    return [
        header,
        *(
            [
                f"{name}, {CASES[name].pixels} pixels",
                str(cost.blocks),
                str(cost.images),
                f"{cost.seconds:.1f}",
                f"{cost.tuned_seconds:.1f}",
                f"{cost.alone_seconds:.1f}",
                f"{cost.peak_bytes / 2**20:.0f} MiB",
            ]
            for name, cost in costs.items()
        ),
    ]


def main(arguments: list[str] | None = None) -> None:
    """Measure the networks that were named, and print their table."""
    parser = command_line.Parser(
        prog="python -m benchmarks.fit_cost", description=__doc__.partition("\n")[0], epilog=EXAMPLE
    )
    parser.add_argument("--networks", nargs="+", choices=CASES, default=[*CASES], help="networks to fit (all)")
    parser.add_argument(
        "--images", type=positive_count, help=f"random images to fit to ({', '.join(_images_of_each())})"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="JSON", help="write all that was measured here")
    options = parser.parse_args(arguments)
    document.check_output(options.output)
    costs: dict[str, Cost] = {}
    for name in options.networks:
        costs[name] = run(name, options.images, command_line.progress)
        if options.output:  # after each, as the second takes minutes, and may be interrupted
            document.write(
                options.output, "benchmarks.fit_cost", arguments, rows(costs),
                threads=torch.get_num_threads(), costs=records.as_json(costs),
            )  # fmt: skip
    print(table(rows(costs)))


def _images_of_each() -> list[str]:
    return [f"{case.images} for {name}" for name, case in CASES.items()]


if __name__ == "__main__":
    sys.exit(command_line.run(main))
