"""Prefold: make prefold.safetensors, with gates that were learned, or opened to a plan."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor, fx, nn

from layer_folding.errors import InputError
from layer_folding.fold import checkpoints
from layer_folding.fold.gating import depth_penalty, gates, linearize
from layer_folding.fold.plan.candidates import candidates
from layer_folding.fold.plan.gate_weighting import gate_weights
from layer_folding.fold.plan.offers import offers
from layer_folding.fold.replaying import example_of
from layer_folding.latency_tables import read_table
from layer_folding.stages import PREFOLD, PRETRAIN

from . import config, labelling, loop, scheduled, trained
from .hyperparameters import Distilled
from .settings import PrefoldSettings
from .trained import Trained


def prefold(run: Path, settings: PrefoldSettings, latency: Path | None = None, trust: str | None = None) -> Trained:
    """Make prefold.safetensors in ``run`` from original.safetensors there.

    ``latency`` is a latency table that gives the gates their weights, and ``trust`` is as in `model_names.build`.
    Raises InputError for settings or files that cannot be used, CheckError as `loop.train` does.
    """
    parent = run / PRETRAIN.file
    model, recipe = checkpoints.load(parent, trust)
    if recipe.gates and settings.remove:
        raise InputError(
            f"--remove: {parent} has gates of its own; leave --remove out, or start from weights without gates"
        )
    gate = "all" if recipe.gates else settings.gate  # given gates may stand anywhere
    linear = "identity" if recipe.gates else settings.linear  # given gates were trained towards the identity
    example = example_of(recipe)
    gated = linearize(model, example, gate=gate, linear=linear)
    settings = labelling.taught(run, recipe, _resolved(settings, latency, model, gated, example))
    config.enter(run, PREFOLD.command, settings, {parent.name: parent})
    before = trained.done(run, PREFOLD)
    if before:
        return before
    dataset = labelling.dataset_of(run, trust)
    for name, alpha in recipe.gates.items():
        gates(gated)[name].alpha.data.fill_(alpha)
    if settings.remove:
        gated, _ = scheduled.plan(gated, settings.remove, example)
    loop.train(gated, dataset, run, PREFOLD.command, settings, teacher(run, settings, trust))
    scheduled.open_gates(gated, settings.remove, 1.0)  # they are, unless there was no training
    recipe = replace(
        recipe,
        stage=PREFOLD.network,
        gate=gate,
        linear=linear,
        gates={name: each.alpha.item() for name, each in gates(gated).items()},
        planned=settings.remove,
        accuracy={**recipe.accuracy, PREFOLD.network: loop.accuracy(gated, dataset)},
    )
    return trained.finish(run, PREFOLD, gated, recipe)


def teacher(run: Path, settings: Distilled, trust: str | None) -> nn.Module | None:
    """The original network of ``run``, if ``settings`` ask to learn from it."""
    return checkpoints.load(run / PRETRAIN.file, trust)[0] if settings.has_teacher else None


def _resolved(
    settings: PrefoldSettings, latency: Path | None, model: nn.Module, gated: fx.GraphModule, example: Tensor
) -> PrefoldSettings:
    """``settings`` with the weights of the gates by a latency table, and with the names of all gates to remove."""
    if latency is not None:
        settings = replace(settings, gate_weights=_time_saved(latency, model, gated, example))
    if settings.remove_count > len(gates(gated)):
        raise InputError(f"--remove-count {settings.remove_count}: there are {len(gates(gated))} gates; give fewer")
    depth_penalty(gated, weights=settings.gate_weights)  # raises where the names in it are wrong
    return replace(settings, remove=tuple(scheduled.resolve(settings.remove, gated)))


def _time_saved(latency: Path, model: nn.Module, gated: nn.Module, example: Tensor) -> Mapping[str, float]:
    """The weights of the gates of ``gated`` by a latency table of ``model``; raises as `gate_weights` and the table."""
    offered = offers(candidates(model, example).found, read_table(latency))
    return gate_weights(offered, gates(gated))
