"""The paper's code beside ours: ``python -m benchmarks.paper --weights F --data DIR``, ResNet-20, an hour on two cores.

All ways begin with the same weights and train as many epochs on the same images: with gates and then fine-tuned, or,
for fits, fine-tuned alone. The paper's way is `benchmarks.published_recipe`; ours are the commands, as a user has them.
"""

import contextlib
import io
import statistics
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks import document, kernels, published_recipe
from benchmarks.fitting import MODEL
from benchmarks.measure import Progress
from layer_folding import command_line, epoch_records, fold_results, records
from layer_folding.argument_types import count, positive_count
from layer_folding.errors import InputError, NothingToFold
from layer_folding.fold import commands as fold_commands
from layer_folding.fold import fold
from layer_folding.fold.regions.costs import Cost, cost
from layer_folding.fold.reporting import quantity, table
from layer_folding.train import commands as train_commands
from layer_folding.train import inputs, loop
from layer_folding.train.data import Dataset, Split
from layer_folding.train.settings import DataSettings

FITTED = ("layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer2.2")  # as many gates are to open in our ways
ROUNDS = 5  # of the kernels, which differ by far more than the noise
PAPER, IDENTITY, AFFINE, FITS = WAYS = ("the paper's code", "ours, identity", "ours, affine maps", "ours, fits")

EXAMPLE = """\
examples:
  python -m benchmarks.paper --weights resnet20.pt --data cifar10/ -o runs/paper.json
  python -m benchmarks.paper --weights resnet20.pt --data cifar10/ --epochs 1

exit codes: 0 done, 1 a check failed, 2 bad input, 130 interrupted
"""


@dataclass(frozen=True)
class Result:
    """What one way gave: how many activations were ``removed``, and the folded network's ``depth`` and ``macs``.

    ``accuracy`` is a fraction by the step that it was measured after, as in fold.json. ``seconds`` are those of the
    epochs with gates, or of fine-tuning where there are no gates; ``epochs`` is how many of both.
    """

    removed: int
    depth: int
    macs: int
    epochs: tuple[int, int]
    accuracy: Mapping[str, float]
    seconds: tuple[float, ...]


def published(weights: Path, dataset: Dataset, epochs: int, seed: int) -> Result:
    """Train ResNet-20 by the paper's recipe, and fold it."""
    model = inputs.network(MODEL, dataset, weights, seed).model.eval()
    trained = published_recipe.train(model, dataset, epochs, seed)
    example = torch.zeros(1, *dataset.shape)
    folded = cost(fold(trained.model, example).model, example)
    removed = len(trained.removed)
    return Result(removed, folded.depth, folded.macs, (epochs, epochs), trained.accuracy, trained.seconds)


def ours(way: str, weights: Path, data: str, epochs: int, seed: int, original: Cost) -> Result:
    """Train ResNet-20 by our commands, in a run folder that is deleted afterwards, and fold it."""
    seeded = ("--seed", str(seed))
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        start = ("--model", MODEL, "--data", data, "--weights", str(weights), "--epochs", "0")
        _command("pretrain", "--run", folder, *start, *seeded)
        if way == FITS:
            _command("fit", folder, "--choose", *(f"{block}.relu=3x3" for block in FITTED), *seeded)
            gated, left = 0, 2 * epochs
        else:
            linear = ("--linear", "identity" if way == IDENTITY else "affine")
            given = ("--epochs", str(epochs), "--remove-count", str(len(FITTED)))
            _command("prefold", "--run", folder, *given, *linear, *seeded)
            gated, left = epochs, epochs
        with contextlib.suppress(NothingToFold):  # a result, too: the network with gates is what there is
            _command("finetune", "--run", folder, "--epochs", str(left), *seeded)
            with _quiet():
                fold_commands.main(["fold", folder])
        done = epoch_records.read(run / "metrics.csv").epochs
        stage = "prefold" if gated else "finetune"
        seconds = tuple(each.seconds or 0.0 for each in done if each.stage == stage)
        if not (run / "fold.json").exists():
            return Result(0, original.depth, original.macs, (gated, 0), {"prefold": done[-1].accuracy}, seconds)
        folded = fold_results.load(run / "fold.json")
    removed = sum(len(merge.activations) for merge in folded.of_original)
    after = folded.cost.folded
    return Result(removed, after.depth, after.macs, (gated, left), folded.accuracy, seconds)


def _command(*words: str) -> None:
    with _quiet():
        train_commands.main([*words])


def _quiet() -> contextlib.AbstractContextManager[object]:
    """What the commands print is not the result here."""
    return contextlib.redirect_stdout(io.StringIO())


def kernel_ms(progress: Progress) -> tuple[float, float]:
    """Milliseconds to merge the nine pairs of ResNet-20, by autograd and by our algebra, medians of interleaved calls.

    Raises CheckError where the two disagree.
    """
    samples = kernels.resnet20(ROUNDS, progress).samples_ms
    by_autograd, _, by_composition = (statistics.median(values) for values in samples.values())
    return by_autograd, by_composition


def rows(
    results: Mapping[str, Result], kernels_ms: tuple[float, float], original: Cost, accuracy: float
) -> list[list[str]]:
    """A header and rows, a column for each way; ``original`` and ``accuracy`` are of the network before."""
    autograd, composed = (f"{ms:.1f}" for ms in kernels_ms)
    found = list(results.values())

    def accuracies(step: str) -> list[str]:
        return [f"{100 * each.accuracy[step]:.2f} %" if step in each.accuracy else "-" for each in found]

    merging = {PAPER: autograd, FITS: "-"}
    return [
        ["", *results],
        ["kernels of nine pairs, ms", *(merging.get(way, composed) for way in results)],
        ["epochs, with gates + fine-tuning", *(" + ".join(map(str, each.epochs)) for each in found)],
        ["seconds an epoch", *(f"{statistics.median(each.seconds):.1f}" for each in found)],
        ["activations removed", *(str(each.removed) for each in found)],
        ["layers", *(f"{original.depth} => {each.depth}" for each in found)],
        ["MACs", *(f"{quantity(original.macs)} => {quantity(each.macs)}" for each in found)],
        ["accuracy before", *(f"{100 * accuracy:.2f} %" for _ in found)],
        ["with gates, or just fitted", *accuracies("prefold")],
        ["activations removed, not trained", *accuracies("removed")],
        ["fine-tuned", *accuracies("hardened")],
    ]


def main(arguments: list[str] | None = None) -> None:
    """Train by all ways, and print their table. Raises InputError, and CheckError as training does."""
    parser = command_line.Parser(
        prog="python -m benchmarks.paper", description=__doc__.partition("\n")[0], epilog=EXAMPLE
    )
    parser.add_argument("--weights", type=Path, required=True, metavar="FILE", help="weights of ResNet-20")
    parser.add_argument("--data", required=True, help="a folder of colour images that the weights were trained on")
    parser.add_argument(
        "--epochs", type=positive_count, default=3, help="epochs with gates, and as many again without (%(default)s)"
    )
    parser.add_argument("--seed", type=count, default=0, help="seed of shuffling and augmentation (%(default)s)")
    parser.add_argument("-o", "--output", type=Path, metavar="JSON", help="write all that was measured here")
    options = parser.parse_args(arguments)
    document.check_output(options.output)
    dataset = inputs.dataset(DataSettings(data=options.data))
    if not isinstance(dataset.train, Split) or dataset.shape[0] != 3:
        raise InputError(f"--data {options.data}: is not colour images that fit in memory; give a folder of these")
    kernels_ms = kernel_ms(command_line.progress)
    model = inputs.network(MODEL, dataset, options.weights, options.seed).model.eval()
    original, accuracy = cost(model, torch.zeros(1, *dataset.shape)), loop.accuracy(model, dataset)
    results: dict[str, Result] = {}
    for way in WAYS:
        if way == PAPER:
            results[way] = published(options.weights, dataset, options.epochs, options.seed)
        else:
            results[way] = ours(way, options.weights, options.data, options.epochs, options.seed, original)
        if options.output:  # after each, as all of them take an hour, and may be interrupted
            document.write(
                options.output, "benchmarks.paper", arguments, rows(results, kernels_ms, original, accuracy),
                gpu=document.gpu(), threads=torch.get_num_threads(), kernels_ms=kernels_ms,
                results=records.as_json(results),
            )  # fmt: skip
    print(table(rows(results, kernels_ms, original, accuracy)))


if __name__ == "__main__":
    sys.exit(command_line.run(main))
