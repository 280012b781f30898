"""Probing: what a network loses with each set of activations after a short training without them.

The most faithful source of importances, and the slowest. Each set starts from the original network, sees the same
images in the same order, and is compared with the network that was trained as long with all its activations.
RUN/probe/losses.csv has a row for each that is done, the one with no names being the network with all of them; a
probing that was interrupted goes on after the last finished epoch.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from layer_folding.errors import CheckError
from layer_folding.evalset import read_evalset
from layer_folding.fold import checkpoints
from layer_folding.fold.graph.changes import remove
from layer_folding.fold.graph.tracing import trace
from layer_folding.fold.networks import require_images
from layer_folding.fold.plan.candidates import candidates
from layer_folding.fold.plan.importances import computed, cross_entropy, more
from layer_folding.fold.plan.offers import offers
from layer_folding.fold.regions.padding import hoist_padding
from layer_folding.fold.replaying import example_of
from layer_folding.importance_tables import Importance, read_importance, write_importance
from layer_folding.latency_tables import read_table
from layer_folding.stages import PRETRAIN

from . import config, labelling, loop, state
from .hyperparameters import hyperparameters
from .settings import ProbeSettings

STAGE = "probe"
Set = tuple[str, ...]  # activations that are removed together


@dataclass(frozen=True)
class Probed:
    """What the network loses with each set of activations; the file that says so is at ``path``."""

    path: Path
    importance: Importance


def probe(run: Path, settings: ProbeSettings, latency: Path | None = None, trust: str | None = None) -> Probed:
    """Write ``run``/importance.csv: how much larger the cross entropy on calib.npz there is without each set.

    With a ``latency`` table, only sets that make the network faster are probed. ``trust`` is as in `model_names.build`.
    Raises InputError for files that cannot be used, CheckError where there is nothing to probe, and as `loop.train`.
    """
    parent = run / PRETRAIN.file
    model, recipe = checkpoints.load(parent, trust)
    example = example_of(recipe)
    survey = candidates(model, example)
    found = [each for candidate in survey.found for each in candidate.alternatives if each.shape is None]
    wanted = found
    if latency is not None:
        offered = offers(survey.found, read_table(latency))
        wanted = [offer.alternative for offer in offered if not offer.is_fitted]
    if not wanted:
        raise CheckError(f"{parent}: nothing to probe, no merge {'is faster' if found else 'is possible'}")
    seen = run / "calib.npz"
    images = read_evalset(seen)
    given = images.known_labels(seen, "importances from `layer-folding importance --from fit` need none")
    require_images(images, seen, model, recipe.input_shape)
    x, labels = torch.from_numpy(images.inputs()), torch.from_numpy(given)
    config.enter(run, STAGE, settings, {parent.name: parent})
    dataset = labelling.dataset_of(run, trust)
    path = run / "probe" / "losses.csv"
    losses = dict(read_importance(path).losses) if path.exists() else {}
    unit = f"cross entropy after {settings.epochs} epochs"
    folders = {c.changes: path.parent / str(number) for number, c in enumerate(found, start=1)}
    sets: list[Set] = [(), *(c.changes for c in wanted)]
    for number, activations in enumerate(sets):
        names = tuple(sorted(activations))
        if names in losses:
            continue
        print(f"probe {number}/{len(wanted)}: removed {', '.join(activations) or 'nothing'}", file=sys.stderr)
        folder = folders.get(activations, path.parent / "0")
        bare, _ = hoist_padding(remove(trace(model, example), list(activations)), example)
        loop.train(bare, dataset, folder, STAGE, hyperparameters(settings))
        losses[names] = cross_entropy(bare, x, labels)
        write_importance(path, computed(losses, unit))
        state.remove(folder, STAGE)
    lost = {activations: more(losses[tuple(sorted(activations))], losses[()]) for activations in sets[1:]}
    probed = Probed(run / "importance.csv", computed(lost, unit))
    write_importance(probed.path, probed.importance)
    return probed
