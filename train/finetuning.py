"""Fine-tune: make hardened.safetensors, from what prefold left: gates that opened, or layers that were fitted."""

from dataclasses import replace
from pathlib import Path

from layer_folding.fold import checkpoints
from layer_folding.stages import FINETUNE, PREFOLD

from . import config, labelling, loop, trained
from .hardening import hardened
from .hyperparameters import hyperparameters
from .prefolding import teacher
from .settings import FinetuneSettings
from .trained import Trained


def finetune(run: Path, settings: FinetuneSettings, trust: str | None = None) -> Trained:
    """Make hardened.safetensors in ``run`` from prefold.safetensors there.

    ``trust`` is as in `model_names.build`. Raises InputError for settings or files that cannot be used, NothingToFold
    if no activation can go, CheckError as `loop.train` does.
    """
    parent = run / PREFOLD.file
    recipe, weights = checkpoints.read(parent)
    settings = labelling.taught(run, recipe, settings)
    config.enter(run, FINETUNE.command, settings, {parent.name: parent})
    before = trained.done(run, FINETUNE)
    if before:
        return before
    dataset = labelling.dataset_of(run, trust)
    hard = hardened(run, recipe, weights, settings, dataset, trust)
    loop.train(hard.model, dataset, run, FINETUNE.command, hyperparameters(settings), teacher(run, settings, trust))
    recipe = replace(
        recipe,
        stage=FINETUNE.network,
        gate=None,
        removed=tuple(hard.removed),
        kept=hard.kept,
        hoisted=None if hard.hoisted is None else tuple(region.layers for region in hard.hoisted),
        accuracy={**recipe.accuracy, **hard.accuracy, FINETUNE.network: loop.accuracy(hard.model, dataset)},
    )
    return trained.finish(run, FINETUNE, hard.model, recipe)
