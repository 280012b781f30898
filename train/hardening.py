"""From what prefold leaves to the network that fine-tuning trains: activations removed, and padding hoisted."""

import copy
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from layer_folding import epoch_records
from layer_folding.epoch_records import Epoch
from layer_folding.errors import CheckError, NothingToFold
from layer_folding.evalset import read_evalset
from layer_folding.fold import checkpoints
from layer_folding.fold.batch_norms import take_statistics
from layer_folding.fold.fitting.imitation import SAMPLE, Imitation, imitation_of
from layer_folding.fold.gating import gates, harden
from layer_folding.fold.graph.tracing import trace
from layer_folding.fold.regions.padding import Hoisted, hoist_padding
from layer_folding.fold.replaying import changed, example_of
from layer_folding.recipes import Recipe
from layer_folding.stages import FINETUNE, PREFOLD

from . import loop, scheduled
from .choosing import GateChoice, choose, depth_without, opened
from .data import Dataset
from .metrics import draw_gates
from .settings import FinetuneSettings

_COMPARED = 512  # images, enough to tell which of two networks is closer


@dataclass(frozen=True)
class Hardened:
    """A ``model`` without gates, and what was done to it, as a `Recipe` has it; the ``accuracy`` at each step."""

    model: nn.Module
    removed: Sequence[str] = ()
    kept: Mapping[str, str] = field(default_factory=dict)
    hoisted: Sequence[Hoisted] | None = None
    accuracy: Mapping[str, float] = field(default_factory=dict)


def hardened(
    run: Path,
    recipe: Recipe,
    weights: dict[str, Tensor],
    settings: FinetuneSettings,
    dataset: Dataset,
    trust: str | None,
) -> Hardened:
    """The network of prefold.safetensors in ``run``, which has ``recipe`` and ``weights``, ready to be trained.

    A network without gates, with fitted layers, stays as it is: these layers pad like any others. ``trust`` is as in
    `model_names.build`. Raises InputError for files that cannot be used, NothingToFold where no activation can go.
    """
    parent = run / PREFOLD.file
    if recipe.gate is None:
        return Hardened(checkpoints.rebuild(parent, recipe, weights, trust))
    gated, hoisted = _gated(recipe, trust)
    checkpoints.fill(gated, weights, parent)
    images = torch.from_numpy(read_evalset(run / "calib.npz").inputs())
    trained = imitation_of(copy.deepcopy(gated).eval(), images[:SAMPLE])
    choice = _choice(gated, recipe, settings, run)
    hard = harden(gated, threshold=1.0 if recipe.planned else settings.threshold)
    removed, moved = FINETUNE.steps
    if not recipe.planned:  # a plan's network is hardened already, and has been trained so
        hard = _closest(hard, trained, images)
    accuracy = {removed: loop.accuracy(hard, dataset)}
    hard, more = hoist_padding(hard, example_of(recipe))
    if more:
        hard = _closest(hard, trained, images)
    accuracy[moved] = loop.accuracy(hard, dataset)
    return Hardened(hard, choice.removed, choice.kept, [*hoisted, *more], accuracy)


def _closest(model: nn.Module, trained: Imitation, images: Tensor) -> nn.Module:
    """``model``, or a copy with BatchNorm statistics of ``images``, whichever is closer to the network as ``trained``.

    New statistics save a network whose values have changed. They harm a network whose values are as they were: training
    took its own statistics from images that were cropped and mirrored.
    """
    anew = copy.deepcopy(model)
    take_statistics(anew, images)
    return min((model.eval(), anew), key=lambda network: _distance(network, trained, images[:_COMPARED]))


def _distance(network: nn.Module, trained: Imitation, images: Tensor) -> float:
    try:
        return trained.divergence(network, images.split(trained.batch)).mean
    except CheckError:  # values that explode; training may save the network
        return math.inf


def _gated(recipe: Recipe, trust: str | None) -> tuple[nn.Module, list[Hoisted]]:
    """The network as prefold trained it, with fresh weights, and what was hoisted before training."""
    gated = changed(recipe, trust)
    return scheduled.plan(gated, recipe.planned, example_of(recipe)) if recipe.planned else (gated, [])


def _choice(gated: nn.Module, recipe: Recipe, settings: FinetuneSettings, run: Path) -> GateChoice:
    """What the plan says, or the gates; gates that are kept are closed here, and the picture of the gates says so.

    Raises NothingToFold if nothing can go.
    """
    if recipe.planned:
        return GateChoice(recipe.planned, {})
    traced = trace(gated, example_of(recipe))
    choice = choose(traced, opened(gated, settings.threshold), settings.max_growth)
    _draw(run, traced, settings, choice)
    for name, reason in choice.kept.items():
        print(f"note: {name} stays: {reason} (--max-growth {settings.max_growth:g})", file=sys.stderr)
        gates(gated)[name].alpha.data.zero_()
    if not choice.removed:
        name, widest = max(gates(gated).items(), key=lambda item: item[1].alpha.item())
        raise NothingToFold(
            f"{run / PREFOLD.file}: no activation can go: to remove {len(choice.kept)} would cost too much, and "
            f"the widest of the other gates, {name}, is at {widest.alpha.item():.2f} of {settings.threshold}; prefold "
            "with more --epochs (EPOCHS) or a larger --lambda (LAMBDA), in a new run folder"
        )
    return choice


def _draw(run: Path, traced: fx.GraphModule, settings: FinetuneSettings, choice: GateChoice) -> None:
    """Draw the gates of prefold again, as this fine-tuning counts them: prefold knew neither of its two limits."""

    def counted(epoch: Epoch) -> Epoch:
        wide = [name for name, alpha in epoch.gates.items() if alpha >= settings.threshold]
        return replace(epoch, depth=depth_without(traced, choose(traced, wide, settings.max_growth).removed))

    epochs = [epoch for epoch in epoch_records.read(run / "metrics.csv").epochs if epoch.stage == PREFOLD.command]
    if epochs:
        draw_gates(run / "gates.png", [counted(epoch) for epoch in epochs], settings.threshold, choice.kept)
