"""Train a network, learn which of its activations can go, remove those, and train it again."""

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import torch
from torch import nn

from fold import checkpoint
from fold.cli import Parser, run
from fold.errors import CheckError, InputError
from fold.padding import hoist_padding
from train import config, data, inputs, loop
from train.choose import choose
from train.gates import THRESHOLD, gates, harden, linearize
from train.loop import Hyperparameters

_EPILOG = """\
example, from weights to a network that `python -m fold` folds:
  python -m train pretrain --run runs/cars --model resnet20 --data cars/ --weights resnet20.pt
  python -m train prefold  --run runs/cars --epochs 20
  python -m train finetune --run runs/cars --epochs 20

Each stage leaves a checkpoint in the run folder, and after every epoch what it needs to go on: a command that was
interrupted goes on when it is given again. Exit codes: 0 done, 1 ran and failed a check, 2 bad input.
"""


def main(arguments: list[str] | None = None) -> None:
    parser = Parser(prog="python -m train", description=__doc__, epilog=_EPILOG)
    stages = parser.add_subparsers(dest="stage", required=True, metavar="{pretrain,prefold,finetune,evaluate}")

    pretrain = _stage(stages, "pretrain", _pretrain, "train the network, or take its weights from a file")
    inputs.add_network(pretrain)
    inputs.add_data(pretrain)
    _hyperparameters(pretrain, epochs=30, lr=0.1)

    prefold = _stage(stages, "prefold", _prefold, "learn which activations can go")
    inputs.add_named(prefold)
    _hyperparameters(prefold, epochs=10, lr=0.01)
    prefold.add_argument(
        "--lambda", dest="penalty", type=_non_negative, default=0.25, help="weight of the depth penalty (%(default)s)"
    )
    prefold.add_argument(
        "--gate-lr",
        type=_positive,
        default=10.0,
        help="learning rate of the gates, in multiples of --lr (%(default)s)",
    )
    prefold.add_argument(
        "--gate", choices=["foldable", "all"], default="foldable",
        help="gate the activations whose removal lets layers merge, or all of them (%(default)s)",
    )  # fmt: skip

    finetune = _stage(stages, "finetune", _finetune, "remove the activations whose gates are open, hoist, train again")
    inputs.add_named(finetune)
    _hyperparameters(finetune, epochs=10, lr=0.02)
    finetune.add_argument(
        "--threshold", type=_non_negative, default=THRESHOLD, help="gates from here on are taken out (%(default)s)"
    )
    finetune.add_argument(
        "--max-growth",
        type=_positive,
        default=2.0,
        help="an activation stays where the merge would take more than this many times the MACs (%(default)s)",
    )

    evaluate = stages.add_parser("evaluate", help="accuracy of checkpoints", description="Accuracy of checkpoints.")
    evaluate.add_argument("checkpoints", nargs="+", type=Path, metavar="CHECKPOINT")
    inputs.add_named(evaluate)
    inputs.add_data(evaluate)
    evaluate.set_defaults(run_stage=_evaluate)

    options = parser.parse_args(arguments)
    options.run_stage(options)


def _stage(stages, name: str, function, summary: str) -> argparse.ArgumentParser:
    parser = stages.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
    parser.add_argument("--run", required=True, type=Path, metavar="DIR", help="the run folder")
    parser.set_defaults(run_stage=function)
    return parser


def _hyperparameters(parser: argparse.ArgumentParser, epochs: int, lr: float) -> None:
    parser.add_argument("--epochs", type=_count, default=epochs, help="0 skips training (%(default)s)")
    parser.add_argument("--batch", type=_positive_count, default=128, help="images a step (%(default)s)")
    parser.add_argument("--lr", type=_positive, default=lr, help="peak learning rate (%(default)s)")
    parser.add_argument("--weight-decay", type=_non_negative, default=5e-4, help="none on gates (%(default)s)")
    parser.add_argument("--seed", type=_count, default=0, help="(%(default)s)")


def _pretrain(options: argparse.Namespace) -> None:
    where = inputs.data_settings(options)
    dataset = inputs.dataset(where)
    model, built, given_gates = inputs.network(options, dataset)
    weights = None if options.weights is None else config.digest(options.weights)
    config.enter(options.run, "pretrain", {**_settings(options), **where, "weights": weights})
    path = options.run / "original.safetensors"
    if _done(path, "pretrain"):
        return
    if weights is None:
        if not options.epochs:
            print("note: neither --weights nor training: the network is random", file=sys.stderr)
        loop.train(model, dataset, options.run, "pretrain", _hyperparameters_of(options))
    recipe = {
        "stage": "original",
        "model": built,
        "input_shape": list(dataset.shape),
        "classes": list(dataset.classes),
        "accuracy": {"original": _accuracy(model, dataset)},
    }
    if given_gates:
        recipe["gates"] = given_gates
        print(
            f"note: {options.weights} has {len(given_gates)} gates, of which prefold takes the values; the original "
            "network, without them, is not what these weights were trained for",
            file=sys.stderr,
        )
    data.save_eval_set(options.run / "eval.npz", dataset)
    _write(path, model, recipe)


def _prefold(options: argparse.Namespace) -> None:
    parent = options.run / "original.safetensors"
    model, recipe = checkpoint.load(parent, options.model)
    config.enter(options.run, "prefold", {**_settings(options), parent.name: config.digest(parent)})
    path = options.run / "prefold.safetensors"
    if _done(path, "prefold"):
        return
    dataset = inputs.dataset(config.settings(options.run, "pretrain"))
    recipe["gate"] = "all" if recipe.get("gates") else options.gate  # given gates may stand anywhere
    gated = linearize(model, _example(recipe), recipe["gate"])
    for name, alpha in recipe.get("gates", {}).items():
        gates(gated)[name].alpha.data.fill_(alpha)
    loop.train(gated, dataset, options.run, "prefold", _hyperparameters_of(options))
    recipe["stage"] = "prefold"
    recipe["gates"] = {name: gate.alpha.item() for name, gate in gates(gated).items()}
    recipe["accuracy"]["prefold"] = _accuracy(gated, dataset)
    _write(path, gated, recipe)


def _finetune(options: argparse.Namespace) -> None:
    parent = options.run / "prefold.safetensors"
    recipe, weights = checkpoint.read(parent)
    config.enter(options.run, "finetune", {**_settings(options), parent.name: config.digest(parent)})
    path = options.run / "hardened.safetensors"
    if _done(path, "finetune"):
        return
    gated = linearize(checkpoint.replay(recipe, options.model), _example(recipe), recipe["gate"])
    checkpoint.fill(gated, weights, parent)
    removed, kept = choose(gated, _example(recipe), options.threshold, options.max_growth)
    for name, reason in kept.items():
        print(f"note: {name} stays: {reason} (--max-growth {options.max_growth:g})", file=sys.stderr)
        gates(gated)[name].alpha.data.zero_()
    if not removed:
        name, widest = max(gates(gated).items(), key=lambda item: item[1].alpha.item())
        raise CheckError(
            f"{parent}: no activation can go: {len(kept)} would cost too much, and of the other gates the widest, "
            f"{name}, is at {widest.alpha.item():.2f} of {options.threshold}; prefold with more --epochs (EPOCHS) or "
            "a larger --lambda (LAMBDA), in a new run folder"
        )
    dataset = inputs.dataset(config.settings(options.run, "pretrain"))
    hard = harden(gated, options.threshold)
    recipe["accuracy"]["hardened"] = _accuracy(hard, dataset)
    hard, hoisted = hoist_padding(hard, _example(recipe))
    recipe["accuracy"]["hoisted"] = _accuracy(hard, dataset)
    loop.train(hard, dataset, options.run, "finetune", _hyperparameters_of(options))
    recipe["stage"] = "finetuned"
    recipe["removed"] = removed
    recipe["kept"] = kept
    recipe["hoisted"] = [list(region.layers) for region in hoisted]
    recipe["accuracy"]["finetuned"] = _accuracy(hard, dataset)
    _write(path, hard, recipe)


def _evaluate(options: argparse.Namespace) -> None:
    dataset = inputs.dataset(inputs.data_settings(options))
    for path in options.checkpoints:
        model, recipe = checkpoint.load(path, options.model)
        if recipe["input_shape"] != list(dataset.shape):
            raise InputError(f"{path}: takes images {recipe['input_shape']}, not those of --data {options.data}")
        print(f"{path}: {100 * _accuracy(model, dataset):.2f} % of {len(dataset.test.labels)} images")


def _settings(options: argparse.Namespace) -> dict:
    """What the result of a stage depends on, as JSON values."""
    return {name: value for name, value in vars(options).items() if name not in ("run", "stage", "run_stage")}


def _hyperparameters_of(options: argparse.Namespace) -> Hyperparameters:
    names = {field.name for field in fields(Hyperparameters)}
    return Hyperparameters(**{name: value for name, value in vars(options).items() if name in names})


def _done(path: Path, stage: str) -> bool:
    """Whether ``stage`` has written its checkpoint. Says so, and raises InputError if that is damaged."""
    if not path.exists():
        return False
    accuracy = checkpoint.read(path)[0]["accuracy"]
    loop.finish(path.parent, stage)
    print(f"{stage}: done before, see {path}; {_in_words(accuracy)}")
    return True


def _write(path: Path, model: nn.Module, recipe: dict) -> None:
    checkpoint.save(path, model, recipe)
    stage = {"original": "pretrain", "finetuned": "finetune"}.get(recipe["stage"], recipe["stage"])
    loop.finish(path.parent, stage)
    print(f"{stage}: wrote {path}; {_in_words(recipe['accuracy'])}")


def _in_words(accuracy: dict[str, float]) -> str:
    return "accuracy " + ", ".join(f"{stage} {100 * value:.2f} %" for stage, value in accuracy.items())


def _accuracy(model: nn.Module, dataset: data.Dataset) -> float:
    return loop.accuracy(model, dataset)


def _example(recipe: dict) -> torch.Tensor:
    return torch.zeros(1, *recipe["input_shape"])


def _count(text: str) -> int:
    return _number(text, int, lambda value: value >= 0, "a whole number, 0 or more")


def _positive_count(text: str) -> int:
    return _number(text, int, lambda value: value > 0, "a whole number above 0")


def _positive(text: str) -> float:
    return _number(text, float, lambda value: 0 < value < math.inf, "a number above 0")


def _non_negative(text: str) -> float:
    return _number(text, float, lambda value: 0 <= value < math.inf, "a number, 0 or more")


def _number(text: str, kind: type, fits: Callable[[float], bool], wanted: str):
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not fits(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
    return value


if __name__ == "__main__":
    sys.exit(run(main))
