"""What a stage of training leaves: a checkpoint, and the recipe in it."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from layer_folding.fold import checkpoints
from layer_folding.recipes import Recipe
from layer_folding.stages import Stage

from . import config, state


@dataclass(frozen=True)
class Trained:
    """The checkpoint at ``path`` with its recipe; ``done_before`` where an earlier call had written it."""

    stage: Stage
    path: Path
    recipe: Recipe
    done_before: bool = False


def done(run: Path, stage: Stage) -> Trained | None:
    """What ``stage`` has left in ``run``, None if it has not ended. Raises InputError for a damaged checkpoint."""
    path = run / stage.file
    if not path.exists():
        return None
    recipe = checkpoints.read(path)[0]
    state.remove(run, stage.command)
    return Trained(stage, path, recipe, done_before=True)


def withdraw(run: Path, stage: Stage) -> None:
    """Leave ``run`` as if ``stage`` had not begun: what it was given was refused, and it has made nothing."""
    config.leave(run, stage.command)
    state.remove(run, stage.command)


def finish(run: Path, stage: Stage, model: nn.Module, recipe: Recipe) -> Trained:
    """Write the checkpoint of ``stage``, and remove the state from which the stage would have gone on."""
    path = run / stage.file
    checkpoints.save(path, model, recipe)
    state.remove(run, stage.command)
    return Trained(stage, path, recipe)
