"""The stages of training, each from the checkpoint of the one before to its own."""

import argparse
import sys
from pathlib import Path

import torch
from torch import nn

from fold import checkpoint
from fold.candidates import candidates
from fold.errors import InputError, NothingToFold
from fold.gate_weights import gate_weights
from fold.latency import read_timings
from fold.padding import hoist_padding
from fold.plan import offers
from train import config, data, hyperparameters, inputs, loop, planned, state
from train.choose import choose
from train.gates import depth_penalty, gates, harden, linearize


def pretrain(options: argparse.Namespace) -> None:
    """Make original.safetensors: from weights that were given, or by training."""
    where = inputs.data_settings(options)
    dataset = inputs.dataset(where)
    model, built, given_gates = inputs.network(options, dataset)
    weights = None if options.weights is None else config.digest(options.weights)
    config.enter(options.run, "pretrain", {**settings(options), **where, "weights": weights})
    path = options.run / "original.safetensors"
    if _done(path, "pretrain"):
        return
    if weights is None:
        if not options.epochs:
            print("note: neither --weights nor training: the network is random", file=sys.stderr)
        loop.train(model, dataset, options.run, "pretrain", hyperparameters.of(options))
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
    data.save_calibration_set(options.run / "calib.npz", dataset)
    _write(path, model, recipe)


def prefold(options: argparse.Namespace) -> None:
    """Make prefold.safetensors: with gates that were learned, or opened to a plan."""
    parent = options.run / "original.safetensors"
    model, recipe = checkpoint.load(parent, options.model)
    own_gates = recipe.get("gates", {})
    if own_gates and options.remove:
        raise InputError(f"--remove: {parent} has gates of its own; leave it out, or start from weights without gates")
    recipe["gate"] = "all" if own_gates else options.gate  # given gates may stand anywhere
    example = _example(recipe)
    gated = linearize(model, example, recipe["gate"])
    if options.latency:
        options.gate_weights = _time_saved(options.latency, model, example, gated)
    depth_penalty(gated, options.gate_weights)  # raises where the names in it are wrong
    options.remove = planned.resolve(options.remove, gated)
    config.enter(options.run, "prefold", {**settings(options), parent.name: config.digest(parent)})
    path = options.run / "prefold.safetensors"
    if _done(path, "prefold"):
        return
    dataset = inputs.dataset(config.settings(options.run, "pretrain"))
    for name, alpha in own_gates.items():
        gates(gated)[name].alpha.data.fill_(alpha)
    if options.remove:
        recipe["planned"] = options.remove
        gated, _ = planned.plan(gated, options.remove, example)
    loop.train(gated, dataset, options.run, "prefold", hyperparameters.of(options), _teacher(options))
    planned.open_gates(gated, options.remove, 1.0)  # they are, unless there was no training
    recipe["stage"] = "prefold"
    recipe["gates"] = {name: gate.alpha.item() for name, gate in gates(gated).items()}
    recipe["accuracy"]["prefold"] = _accuracy(gated, dataset)
    _write(path, gated, recipe)


def _time_saved(table: Path, model: nn.Module, example: torch.Tensor, gated: nn.Module) -> dict[str, float]:
    """The weights of the gates of ``gated`` by a latency table of ``model``; raises as `gate_weights` and the table."""
    offered = offers(candidates(model, example).found, read_timings(table))
    return gate_weights(offered, gates(gated))


def finetune(options: argparse.Namespace) -> None:
    """Make hardened.safetensors: activations out, padding hoisted, trained again."""
    parent = options.run / "prefold.safetensors"
    recipe, weights = checkpoint.read(parent)
    config.enter(options.run, "finetune", {**settings(options), parent.name: config.digest(parent)})
    path = options.run / "hardened.safetensors"
    if _done(path, "finetune"):
        return
    gated = linearize(checkpoint.replay(recipe, options.model), _example(recipe), recipe["gate"])
    hoisted = []
    if "planned" in recipe:
        gated, hoisted = planned.plan(gated, recipe["planned"], _example(recipe))
    checkpoint.fill(gated, weights, parent)
    removed, kept = _to_remove(gated, recipe, options, parent)
    dataset = inputs.dataset(config.settings(options.run, "pretrain"))
    hard = harden(gated, 1.0 if "planned" in recipe else options.threshold)
    recipe["accuracy"]["hardened"] = _accuracy(hard, dataset)
    hard, more = hoist_padding(hard, _example(recipe))
    recipe["accuracy"]["hoisted"] = _accuracy(hard, dataset)
    loop.train(hard, dataset, options.run, "finetune", hyperparameters.of(options), _teacher(options))
    recipe["removed"] = removed
    recipe["kept"] = kept
    recipe["hoisted"] = [list(region.layers) for region in [*hoisted, *more]]
    recipe["stage"] = "finetuned"
    recipe["accuracy"]["finetuned"] = _accuracy(hard, dataset)
    _write(path, hard, recipe)


def _to_remove(
    gated: nn.Module, recipe: dict, options: argparse.Namespace, parent: Path
) -> tuple[list[str], dict[str, str]]:
    """The activations to remove: those of the plan, or what the gates chose; and the open gates that are kept, with
    the reason, which are closed here. Raises NothingToFold if nothing is left to remove."""
    if "planned" in recipe:
        return recipe["planned"], {}
    removed, kept = choose(gated, _example(recipe), options.threshold, options.max_growth)
    for name, reason in kept.items():
        print(f"note: {name} stays: {reason} (--max-growth {options.max_growth:g})", file=sys.stderr)
        gates(gated)[name].alpha.data.zero_()
    if not removed:
        name, widest = max(gates(gated).items(), key=lambda item: item[1].alpha.item())
        raise NothingToFold(
            f"{parent}: no activation can go: {len(kept)} would cost too much, and of the other gates the widest, "
            f"{name}, is at {widest.alpha.item():.2f} of {options.threshold}; prefold with more --epochs (EPOCHS) or "
            "a larger --lambda (LAMBDA), in a new run folder"
        )
    return removed, kept


def _teacher(options: argparse.Namespace) -> nn.Module | None:
    """The original network of the run, if ``options`` ask to learn from it."""
    wanted = options.distill or options.distill_features
    return checkpoint.load(options.run / "original.safetensors", options.model)[0] if wanted else None


def evaluate(options: argparse.Namespace) -> None:
    """Print the accuracy of checkpoints."""
    dataset = inputs.dataset(inputs.data_settings(options))
    for path in options.checkpoints:
        model, recipe = checkpoint.load(path, options.model)
        if recipe["input_shape"] != list(dataset.shape):
            raise InputError(f"{path}: takes images {recipe['input_shape']}, not those of --data {options.data}")
        print(f"{path}: {100 * _accuracy(model, dataset):.2f} % of {len(dataset.test.labels)} images")


def settings(options: argparse.Namespace) -> dict:
    """What the result of a stage depends on, as JSON values; of a latency table these are the weights from it."""
    other = ("run", "stage", "latency")
    return {name: value for name, value in vars(options).items() if name not in other}


def _done(path: Path, stage: str) -> bool:
    """Whether ``stage`` has written its checkpoint. Says so, and raises InputError if that is damaged."""
    if not path.exists():
        return False
    accuracy = checkpoint.read(path)[0]["accuracy"]
    state.remove(path.parent, stage)
    print(f"{stage}: done before, see {path}; {_in_words(accuracy)}")
    return True


def _write(path: Path, model: nn.Module, recipe: dict) -> None:
    checkpoint.save(path, model, recipe)
    stage = {"original": "pretrain", "finetuned": "finetune"}.get(recipe["stage"], recipe["stage"])
    state.remove(path.parent, stage)
    print(f"{stage}: wrote {path}; {_in_words(recipe['accuracy'])}")


def _in_words(accuracy: dict[str, float]) -> str:
    return "accuracy " + ", ".join(f"{stage} {100 * value:.2f} %" for stage, value in accuracy.items())


def _accuracy(model: nn.Module, dataset: data.Dataset) -> float:
    return loop.accuracy(model, dataset)


def _example(recipe: dict) -> torch.Tensor:
    return torch.zeros(1, *recipe["input_shape"])
