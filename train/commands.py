"""The commands of training: their options become settings, the stages get these, and what came of it is printed."""

import argparse
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from layer_folding import subcommands
from layer_folding.catalogue import need
from layer_folding.command_line import progress
from layer_folding.errors import InputError
from layer_folding.fit_choices import is_choice
from layer_folding.fold.fitting.network_fit import Distance, FitResult
from layer_folding.fold.reporting import table
from layer_folding.subcommands import Command, parse

from . import budget_results, data, distributed, inputs, options, plan_files, sweep_results
from .budgets import sweep_budgets
from .evaluating import evaluate
from .finetuning import finetune
from .fitting import fit_run
from .prefolding import prefold
from .pretraining import pretrain
from .probing import probe
from .settings import (
    BudgetSettings,
    DataSettings,
    FinetuneSettings,
    FitSettings,
    PrefoldSettings,
    PretrainSettings,
    ProbeSettings,
    SweepSettings,
)
from .sweeping import sweep
from .trained import Trained
from .unlabelled import read_images

PROGRAM = "python -m train"


def main(arguments: list[str] | None = None, program: str = PROGRAM) -> None:
    """Run a command line of ``train``, under torchrun in process 0. Raises InputError and CheckError."""
    distributed.run(partial(subcommands.call, COMMANDS, arguments, program))


def _pretrain(given: argparse.Namespace) -> None:
    _say(pretrain(given.run, options.settings(PretrainSettings, given), given.weights))


def _prefold(given: argparse.Namespace) -> None:
    if any(map(is_choice, given.remove)):
        choices = tuple(map(str, plan_files.as_fits(given.remove)))
        _say_fit(fit_run(given.run, FitSettings(choices=choices, seed=given.seed), given.trust))
        return
    need("prefold", "matplotlib")  # gates.png
    _say(prefold(given.run, options.settings(PrefoldSettings, given), given.latency, given.trust))


def _fit(given: argparse.Namespace) -> None:
    if given.run.suffix == ".onnx":
        _fit_file(given)
        return
    if given.output or given.speedup or given.budget_ms:
        raise InputError(
            f"{given.run}: -o, --speedup and --budget-ms are for an ONNX file; in a run folder, "
            "`make fit SPEEDUP=1.3` plans"
        )
    if given.epochs:
        raise InputError(f"{given.run}: --epochs is for an ONNX file; `layer-folding finetune` trains what was fitted")
    if not given.plan and not given.choices:
        raise InputError(f"{given.run}: nothing to fit; give --choose NAME=SHAPE, or --plan FILE")
    choices = tuple(map(str, plan_files.fits(given.plan) if given.plan else given.choices))
    if isinstance(given.images, Path):
        raise InputError(f"--images {given.images}: is no number of images; a folder is for an ONNX file")
    settings = FitSettings(choices=choices, images=given.images, seed=given.seed, force=given.force)
    _say_fit(fit_run(given.run, settings, given.trust))


def _fit_file(given: argparse.Namespace) -> None:
    need("export", "onnxruntime")
    from layer_folding.fitting_files import fit_file  # it joins the stages, and needs what they need
    from layer_folding.fold import onnx_in

    if given.output is None:
        raise InputError(f"{given.run}: has no name for the faster file; give -o FILE.onnx")
    if not isinstance(given.images, Path):
        raise InputError(f"{given.run}: has no images to fit to; give --images DIR, a folder with some hundred images")
    shape = [size or given.size for size in onnx_in.read_network(given.run).shape[1:]]
    if None in shape or len(shape) != 2:
        raise InputError(f"{given.run}: leaves the size of its images open; give --size PIXELS")
    normalisation = given.mean or data.RGB_MEAN, given.std or data.RGB_STD
    images = read_images(given.images, shape, *normalisation, count=data.CALIBRATION_IMAGES, seed=given.seed)
    done = fit_file(
        given.run, images, given.output, speedup=given.speedup, budget_ms=given.budget_ms, runtime=given.runtime,
        epochs=given.epochs, force=given.force, progress=progress,
    )  # fmt: skip
    for choice in done.left_out:
        note = f"{choice} is left out: behind the other fits of the first plan it is worse than a constant"
        print(f"note: {note}", file=sys.stderr)
    rows = [["fitted", "error", "in place of"]]
    rows += [[str(layer.shape), f"{layer.error:.3f}", " + ".join(layer.layers)] for layer in done.fitted.layers]
    low, high = done.bench.ci95
    print(f"{table(rows)}\n")
    before, reached = done.fitted.before_epochs, f"divergence {_distance(done.fitted)}"
    if before:
        reached = f"divergence {_distance(before)}; after distillation {_distance(done.fitted)}"
    print(f"on images that were not fitted on: {reached}")
    print(
        f"wrote {done.path}: {done.depth[0]} => {done.depth[1]} layers, {done.bench.speedup:.3f}x [{low:.3f}, "
        f"{high:.3f}] as fast as {given.run} (predicted {done.plan.speedup:.3f}x)"
    )


def _distance(found: FitResult | Distance) -> str:
    same = "" if found.agreement is None else f", the same class for {100 * found.agreement:.1f} %"
    return f"{found.divergence:.3g}{same}"


def _finetune(given: argparse.Namespace) -> None:
    _say(finetune(given.run, options.settings(FinetuneSettings, given), given.trust))


def _evaluate(given: argparse.Namespace) -> None:
    dataset = inputs.dataset(options.settings(DataSettings, given))
    for found in evaluate(given.checkpoints, dataset, given.trust):
        print(f"{found.path}: {found.meaning}: {100 * found.accuracy:.2f} % on {found.images} images", flush=True)


def _probe(given: argparse.Namespace) -> None:
    done = probe(given.run, options.settings(ProbeSettings, given), given.latency, given.trust)
    print(f"wrote {done.path}: {len(done.importance.losses)} candidates, in {done.importance.unit}")


def _sweep(given: argparse.Namespace) -> None:
    need("sweep", "matplotlib")  # gates.png, sweep.png, plan.png and frontier.png
    if given.speedups:
        _sweep_budgets(given)
        return
    if given.latency or given.importance:
        raise InputError("--latency, --importance: are for --speedups; for lambdas, give --prefold='--latency CSV'")
    run = ["--run", str(given.run)]
    prefolding = parse(COMMANDS, ["prefold", *run, *given.prefold], PROGRAM)[1]
    finetuning = parse(COMMANDS, ["finetune", *run, *given.finetune], PROGRAM)[1]
    settings = SweepSettings(
        lambdas=tuple(given.lambdas),
        prefold=options.settings(PrefoldSettings, prefolding),
        finetune=options.settings(FinetuneSettings, finetuning),
        engine=given.engine,
    )
    done = sweep(given.run, settings, prefolding.latency, given.trust)
    if done.points:
        print(sweep_results.as_text(done.points, done.original))
        print(f"wrote {given.run / 'sweep.csv'} and {given.run / 'sweep.png'}")
    done.require()


def _sweep_budgets(given: argparse.Namespace) -> None:
    if given.prefold:
        raise InputError("--prefold: a sweep over speed-ups fits in place of prefolding; leave it out")
    finetuning = parse(COMMANDS, ["finetune", "--run", str(given.run), *given.finetune], PROGRAM)[1]
    settings = BudgetSettings(
        speedups=tuple(given.speedups),
        finetune=options.settings(FinetuneSettings, finetuning),
        engine=given.engine,
    )
    latency, importance = given.latency or given.run / "latency.csv", given.importance or given.run / "importance.csv"
    done = sweep_budgets(given.run, settings, latency, importance, given.trust)
    if done.points:
        print(budget_results.as_text(done.points, done.original))
        print(f"wrote {given.run / 'frontier.csv'} and {given.run / 'frontier.png'}")
    done.require()


def _say(done: Trained) -> None:
    what = f"done before, see {done.path}" if done.done_before else f"wrote {done.path}"
    print(f"{done.stage.command}: {what}; {_in_words(done.recipe.accuracy)}")


def _say_fit(done: Trained) -> None:
    rows = [["fitted", "error", "in place of"]]
    rows += [[fit.choice, f"{fit.error:.3f}", " + ".join(fit.layers)] for fit in done.recipe.fitted]
    print(f"{table(rows)}\n")
    _say(done)


def _in_words(accuracy: Mapping[str, float]) -> str:
    return "accuracy " + ", ".join(f"{step} {100 * value:.2f} %" for step, value in accuracy.items())


COMMANDS = (
    Command(
        name="pretrain",
        description="Train the network, or take its weights from a file.",
        example="layer-folding pretrain --run runs/cars --model resnet20 --data cars/ --weights resnet20.pt",
        add_options=options.pretrain,
        function=_pretrain,
    ),
    Command(
        name="prefold",
        description="Learn which activations can go. Interrupted, the command goes on after the last finished epoch.",
        example="layer-folding prefold --run runs/cars --epochs 20 --distill 0.9",
        add_options=options.prefold,
        function=_prefold,
    ),
    Command(
        name="fit",
        description="Put one layer in the place of layers and the activations between them, by least squares on "
        "training images, without labels. In a run folder this replaces the stage prefold. Interrupted, the command "
        "goes on at the last fitted layer. The printed error is relative, on images that were not fitted on. Given an "
        "ONNX file, the command measures, plans, fits, folds, exports and times, all on this machine.",
        example="layer-folding fit runs/cars --choose layer1.0.relu=3 layer2.1.relu=3\n"
        "layer-folding fit runs/cars --plan runs/cars/plan.json\n"
        "layer-folding fit cars.onnx --images photos --speedup 1.3 -o faster.onnx",
        add_options=options.fit,
        function=_fit,
    ),
    Command(
        name="finetune",
        description="Remove the activations whose gates are open, hoist the padding, and train again. A network with "
        "fitted layers is trained as it is.",
        example="layer-folding finetune --run runs/cars --epochs 20 --distill 0.9",
        add_options=options.finetune,
        function=_finetune,
    ),
    Command(
        name="sweep",
        description="Prefold, fine-tune and fold with several lambdas: accuracy against depth. With --speedups, plan, "
        "fit, fine-tune and fold for several speed-ups, by one latency table and one importance: accuracy against "
        "speed-up. Each point has its own run folder. Interrupted, the command goes on where it stopped.",
        example="layer-folding sweep --run runs/demo --lambdas 0.1 0.25 1 --prefold='--epochs 20'\n"
        "layer-folding sweep --run runs/demo --speedups 1.1 1.2 1.4 --finetune='--epochs 5'",
        add_options=options.sweep,
        function=_sweep,
    ),
    Command(
        name="probe",
        description="Train the original network for a little without each set of activations whose removal lets layers "
        "merge. Write RUN/importance.csv for `layer-folding plan --importance`. Interrupted, the command goes on where "
        "it stopped.",
        example="layer-folding probe --run runs/demo --latency runs/demo/latency.csv --epochs 1",
        add_options=options.probe,
        function=_probe,
    ),
    Command(
        name="evaluate",
        description="Print the accuracy of checkpoints on the test images. For images without labels, print how much "
        "each checkpoint agrees with the original network of its run folder.",
        example="layer-folding evaluate runs/cars/original.safetensors --data cars/",
        add_options=options.evaluate,
        function=_evaluate,
    ),
)
