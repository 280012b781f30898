"""What a network loses with a set of activations, from several sources, in one file format.

importance.csv has a row for each candidate: its ``activations``, separated by spaces, and what it ``loses``, 0 or more,
in the unit that the second column's name says. Candidates are taken to lose independently: a plan loses the sum.
Candidates with an addition (`fold.added`) have a row only where they were trained, since only training can use one.
"""

from __future__ import annotations

import copy
import csv
import io
import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fold.checkpoint import remove
from fold.errors import InputError
from fold.files import write_text
from fold.layers import BATCH_NORMS
from fold.padding import hoist_padding
from fold.trace import trace

if TYPE_CHECKING:
    from fold.candidates import Candidate

_BATCH = 250
Set = tuple[str, ...]  # the activations of one candidate, and what it adds


def reader(path: Path | None) -> tuple[Callable[[Candidate], float], str, Callable[[Candidate], bool]]:
    """A function that says what a candidate loses, the unit, and one that says whether the file has the candidate.

    Without a file each activation that goes counts 1. Raises InputError, as the first function does where the file
    lacks a candidate.
    """
    if path is None:
        return lambda candidate: float(len(candidate.merge.activations)), "activations", lambda candidate: False
    losses, unit = read(path)

    def loses(candidate: Candidate) -> float:
        if not has(candidate):
            raise InputError(
                f"{path}: has no row for {' '.join(sorted(candidate.changes))}; write it again, with "
                "`python -m fold importance` or `python -m train probe`"
            )
        return losses[frozenset(candidate.changes)]

    def has(candidate: Candidate) -> bool:
        return frozenset(candidate.changes) in losses

    return loses, unit, has


def read(path: Path) -> tuple[dict[frozenset[str], float], str]:
    """What each set of activations loses, and the unit. Raises InputError for a file that is not such a table."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            header, *rows = [*csv.reader(file, strict=True)] or [[]]
        if len(header) != 2 or header[0] != "activations":
            raise ValueError(f"its header is {','.join(header)}, not activations and a unit")
        losses = {frozenset(names.split()): float(value) for names, value in rows}
        bad = next((value for value in losses.values() if not 0 <= value < math.inf), None)
        if bad is not None or len(losses) < len(rows):
            raise ValueError("a set is there twice" if bad is None else f"a loss is {bad}")
    except (ValueError, csv.Error) as error:
        raise InputError(f"{path}: no table of importances ({error}); write it with `fold importance`") from error
    return losses, header[1]


def write(path: Path, losses: Mapping[Set, float], unit: str) -> None:
    """Write what each set of activations loses, in ``unit``."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["activations", unit])
    writer.writerows([" ".join(activations), value] for activations, value in losses.items())
    write_text(path, text.getvalue())


def from_gates(alphas: Mapping[str, float], sets: Collection[Set]) -> dict[Set, float]:
    """By the gates of a prefold run: an activation whose gate is at ``alpha`` loses 1 - alpha, none below 0.

    Activations without a gate count as closed.
    """
    return {s: sum(max(0.0, 1 - alphas.get(name, 0.0)) for name in s) for s in sets}


def one_shot(
    model: nn.Module, images: Tensor, labels: Tensor, sets: Collection[Set], progress: Callable[[], object]
) -> dict[Set, float]:
    """How much larger the cross entropy on some images is without each set of activations, with no training.

    Padding is hoisted, as it will be, and BatchNorm statistics are taken anew from the images: for the network as it is
    too, to which the others are compared.

    Args:
        model: the trained network; it is not modified.
        images: normalised, `[N, C, H, W]`, not those that the result is tested on.
        labels: `[N]`.
        progress: is called whenever a set is done.
    """
    example = images[:1]
    before = _loss(copy.deepcopy(model), images, labels)
    losses = {}
    for activations in sets:
        bare, _ = hoist_padding(remove(trace(model, example), list(activations)), example)
        losses[activations] = max(0.0, _loss(bare, images, labels) - before)
        progress()
    return losses


def _loss(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The mean cross entropy with BatchNorm statistics of these images, which are set in place."""
    norms = [module for module in model.modules() if isinstance(module, BATCH_NORMS)]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    with torch.no_grad():
        for x in images.split(_BATCH) if norms else ():
            model(x)
    return cross_entropy(model.eval(), images, labels)


@torch.no_grad()
def cross_entropy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The mean over ``images``, normalised, `[N, C, H, W]`, of which `[N]` are the classes; ``model`` in eval mode."""
    batches = zip(images.split(_BATCH), labels.split(_BATCH), strict=True)
    return sum(F.cross_entropy(model(x), y, reduction="sum").item() for x, y in batches) / len(labels)
