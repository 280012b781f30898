"""Probing: what a network loses with each set of activations after a short training without them.

The most faithful source of importances, and the slowest. Each set starts from the original network, sees the same
images in the same order, and is compared with the network that was trained as long with all its activations.
RUN/probe/losses.csv has a row for each that is done, the one with no names being the network with all of them; a
probing that was interrupted goes on after the last finished epoch.
"""

import argparse
import sys

import torch

from fold import checkpoint, importance
from fold.candidates import candidates
from fold.checkpoint import remove
from fold.errors import CheckError
from fold.evalset import read_evalset
from fold.importance import cross_entropy
from fold.latency import read_timings
from fold.padding import hoist_padding
from fold.plan import offers
from fold.trace import trace
from train import config, hyperparameters, inputs, loop, state
from train.stages import settings


def probe(options: argparse.Namespace) -> None:
    """Write RUN/importance.csv: how much larger the cross entropy on RUN/calib.npz, training images, is without each
    set. Raises CheckError where there is nothing to probe, or as `loop.train` does."""
    parent = options.run / "original.safetensors"
    model, recipe = checkpoint.load(parent, options.model)
    example = torch.zeros(1, *recipe["input_shape"])
    survey = candidates(model, example)
    found = [*survey.found, *survey.adding]
    wanted = [o.candidate for o in offers(found, read_timings(options.latency))] if options.latency else found
    if not wanted:
        raise CheckError(f"{parent}: nothing to probe, no merge {'is faster' if found else 'is possible'}")
    images = read_evalset(options.run / "calib.npz")
    x, labels = torch.from_numpy(images.inputs()), torch.from_numpy(images.labels)
    config.enter(options.run, "probe", {**settings(options), parent.name: config.digest(parent)})
    dataset = inputs.dataset(config.settings(options.run, "pretrain"))
    path = options.run / "probe" / "losses.csv"
    losses = importance.read(path)[0] if path.exists() else {}
    unit = f"cross entropy after {options.epochs} epochs"
    folders = {c.changes: path.parent / str(number) for number, c in enumerate(found, start=1)}
    sets = [(), *(c.changes for c in wanted)]
    for number, activations in enumerate(sets):
        if frozenset(activations) in losses:
            continue
        print(f"probe {number}/{len(wanted)}: removed {', '.join(activations) or 'nothing'}", file=sys.stderr)
        folder = folders.get(activations, path.parent / "0")
        bare, _ = hoist_padding(remove(trace(model, example), list(activations)), example)
        loop.train(bare, dataset, folder, "probe", hyperparameters.of(options))
        losses[frozenset(activations)] = cross_entropy(bare, x, labels)
        importance.write(path, {tuple(sorted(names)): loss for names, loss in losses.items()}, unit)
        state.remove(folder, "probe")
    as_it_is = losses[frozenset()]
    lost = {activations: max(0.0, losses[frozenset(activations)] - as_it_is) for activations in sets[1:]}
    importance.write(options.run / "importance.csv", lost, unit)
    print(f"wrote {options.run / 'importance.csv'}: {len(lost)} candidates, in {unit}")
