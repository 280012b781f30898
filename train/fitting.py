"""Fit: make prefold.safetensors, with one fitted layer in the place of each chosen region, without labels or epochs.

This is what the stage prefold is for a plan that fits layers.
"""

from dataclasses import replace
from pathlib import Path

from layer_folding.command_line import labelled, progress
from layer_folding.errors import CheckError, InputError
from layer_folding.evalset import read_evalset
from layer_folding.fit_choices import LayerShape, parse_choice
from layer_folding.fold import checkpoints
from layer_folding.fold.devices import best_device
from layer_folding.fold.fitting.network_fit import fit
from layer_folding.fold.graph.noted_fits import fits_of
from layer_folding.stages import PREFOLD, PRETRAIN

from . import config, data, labelling, loop, trained
from .batches import normalise
from .fit_state import FitState
from .settings import FitSettings
from .trained import Trained


def fit_run(run: Path, settings: FitSettings, trust: str | None = None) -> Trained:
    """Make prefold.safetensors in ``run`` from original.safetensors there; interrupted, go on at the last fitted layer.

    ``trust`` is as in `model_names.build`. Raises InputError and CheckError as `lf.fit` does, and leaves ``run`` as it
    was.
    """
    parent = run / PRETRAIN.file
    model, recipe = checkpoints.load(parent, trust)
    if recipe.gates:
        raise InputError(f"{parent}: has gates of its own; start from weights that were trained without gates")
    choices: dict[str | tuple[str, ...], LayerShape] = {}
    for choice in map(parse_choice, settings.choices):
        if choice.activations in choices:
            raise InputError(f"{choice.names}: is chosen twice; give one shape")
        choices[choice.activations] = choice.shape
    config.enter(run, PREFOLD.command, settings, {parent.name: parent})
    before = trained.done(run, PREFOLD)
    if before:
        return before
    state = FitState(run, PREFOLD.command)
    dataset = labelling.dataset_of(run, trust)
    count = settings.images or len(read_evalset(run / "calib.npz").images)
    drawn = data.calibration_images(dataset, count, settings.seed)
    where = best_device()
    images = normalise(drawn.images.to(where), dataset.mean, dataset.std)
    show = labelled(progress, "fit")
    try:
        result = fit(model.to(where), images, choices, force=settings.force, progress=show, solve=state.solve)
    except (InputError, CheckError):  # the choices cannot be carried out; others can be tried in the same folder
        trained.withdraw(run, PREFOLD)
        raise
    recipe = replace(
        recipe,
        stage=PREFOLD.network,
        fitted=fits_of(result.model),
        accuracy={**recipe.accuracy, PREFOLD.network: loop.accuracy(result.model, dataset)},
    )
    return trained.finish(run, PREFOLD, result.model.cpu(), recipe)
