"""`python -m fold importance`: what each candidate of a plan loses."""

import argparse
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from fold import checkpoint, importance
from fold.candidates import candidates
from fold.errors import InputError
from fold.evalset import read_evalset
from fold.importance import Set
from fold.network import add_named, open_network

_DESCRIPTION = """\
Write what each candidate of a plan loses when its activations go, for `python -m fold plan --importance`.
From gates: how far the gates of the run's prefold stage are from open. One-shot, without training: how much larger the
cross entropy is on images, with padding hoisted and BatchNorm statistics taken anew. By short trainings, which take
longest and know most: `python -m train probe`.
"""
_EPILOG = """\
examples:
  python -m fold importance runs/demo --from gates
  python -m fold importance runs/demo --from one-shot
"""


def add_parser(commands) -> None:
    """Add the command ``importance`` to those of `fold.__main__`."""
    parser = commands.add_parser(
        "importance", help="what a network loses with its activations", description=_DESCRIPTION, epilog=_EPILOG
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the run folder")
    add_named(parser)
    parser.add_argument("--from", dest="source", required=True, choices=["gates", "one-shot"], help="the source")
    parser.add_argument(
        "--data", type=Path, metavar="NPZ",
        help="labelled images for one-shot, of the training set (default: calib.npz in the run folder)",
    )  # fmt: skip
    parser.add_argument("--images", type=int, default=1000, metavar="N", help="of --data, at most (%(default)s)")
    parser.add_argument("-o", "--output", type=Path, metavar="CSV", help="(default: importance.csv in the run folder)")
    parser.set_defaults(function=write)


def write(options: argparse.Namespace) -> None:
    model, shape = open_network(str(options.run), None, options.model)
    found = candidates(model, torch.zeros(1, *shape)).found
    sets = [candidate.merge.activations for candidate in found]
    if options.source == "gates":
        losses, unit = importance.from_gates(_alphas(options.run / "prefold.safetensors"), sets), "gates closed"
    else:
        losses, unit = _one_shot(options, model, shape, sets), "cross entropy"
    target = options.output or options.run / "importance.csv"
    importance.write(target, losses, unit)
    print(f"wrote {target}: {len(losses)} candidates, in {unit}")


def _alphas(path: Path) -> dict[str, float]:
    return checkpoint.read(path)[0].get("gates", {})


def _one_shot(options: argparse.Namespace, model: nn.Module, shape: list[int], sets: list[Set]) -> dict[Set, float]:
    if options.images < 1:
        raise InputError(f"--images {options.images}: one-shot needs images; give at least 1")
    path = options.data or options.run / "calib.npz"
    data = read_evalset(path)
    images = data.inputs(options.images)
    if list(images.shape[1:]) != list(shape):
        raise InputError(f"{path}: images of {list(images.shape[1:])}, but {options.run} takes {list(shape)}")
    labels = data.labels[data.chosen(options.images)]
    with tqdm(total=len(sets), desc="one-shot", leave=False, disable=None) as bar:
        return importance.one_shot(model, torch.from_numpy(images), torch.from_numpy(labels), sets, bar.update)
