"""The command ``importance``: what each candidate of a plan loses."""

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from layer_folding.argument_types import positive_count
from layer_folding.command_line import progress
from layer_folding.errors import InputError
from layer_folding.evalset import EvalSet, read_evalset
from layer_folding.fit_choices import Choice
from layer_folding.importance_tables import Importance, read_importance, write_importance
from layer_folding.latency_tables import read_table
from layer_folding.outputs import IMPORTANCE_TABLE, output_file
from layer_folding.subcommands import Command

from .. import checkpoints
from ..devices import best_device
from ..networks import add_trust, open_network, require_images
from .candidates import candidates
from .fit_importances import FitLoss, choices_of, fit_losses, require_some, unit_of
from .importances import from_gates, one_shot


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="the run folder")
    add_trust(parser)
    parser.add_argument(
        "--from",
        dest="source",
        required=True,
        choices=["fit", "gates", "one-shot"],
        help="source of the estimate: fit for fits, gates or one-shot for exact merges",
    )
    parser.add_argument(
        "--data", type=Path, metavar="NPZ",
        help="training images, for fit and one-shot (default: calib.npz in the run folder)",
    )  # fmt: skip
    parser.add_argument(
        "--images", type=positive_count, metavar="N", help="largest number of images (fit: 512, one-shot: 1000)"
    )
    parser.add_argument(
        "--labels", action="store_true", help="for fit: compare by the labels of the images, not by the outputs alone"
    )
    parser.add_argument(
        "--latency",
        type=Path,
        metavar="CSV",
        help="for fit: latency table, to try only fits that it shows to be faster",
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="CSV", help="table to write (default: importance.csv in the run folder)"
    )


def _run(options: argparse.Namespace) -> None:
    if options.source != "fit" and (options.labels or options.latency):
        raise InputError(f"--{'labels' if options.labels else 'latency'}: is for --from fit; leave it out")
    model, shape = open_network(str(options.run), None, options.trust)
    found = candidates(model, torch.zeros(1, *shape)).found
    target = output_file("-o", options.output or options.run / "importance.csv", IMPORTANCE_TABLE)
    path = options.data or options.run / "calib.npz"
    if options.source == "fit":
        table = read_table(options.latency) if options.latency else None
        where = best_device()
        data = _read(path, model, shape)
        x = _images(data, options.images or 512).to(where)
        labels: Tensor | None = None
        if options.labels:
            labels = _labels(data, path, "leave --labels out", options.images or 512).to(where)
        unit = f"{unit_of(model.to(where), x, labels)} by {len(x)} images of {path.name}"
        _fit(target, unit, choices_of(found, table), partial(fit_losses, model, x, labels))
        return
    sets = [candidate.exact.changes for candidate in found if candidate.exact]
    if options.source == "gates":
        importance = from_gates(checkpoints.read(options.run / "prefold.safetensors")[0].gates, sets)
    else:
        done = itertools.count(1)
        data, most = _read(path, model, shape), options.images or 1000
        known = _labels(data, path, "give --from fit, which needs none", most)
        importance = one_shot(
            model, _images(data, most), known, sets, lambda: progress(f"set {next(done)} of {len(sets)}")
        )
        progress("")
    write_importance(target, importance)
    print(f"wrote {target}: {len(sets)} candidates, in {importance.unit}")


def _read(path: Path, model: nn.Module, shape: Sequence[int]) -> EvalSet:
    """The images in ``path``. Raises InputError where ``model`` does not take them, of ``shape`` [C, H, W]."""
    data = read_evalset(path)
    require_images(data, path, model, shape)
    return data


def _images(data: EvalSet, most: int) -> Tensor:
    """At most that many images, normalised, `[N, C, H, W]`."""
    return torch.from_numpy(data.inputs(most))


def _labels(data: EvalSet, path: Path, remedy: str, most: int) -> Tensor:
    """The labels of `_images`, `[N]`. Raises InputError with the ``remedy`` where ``path`` has none."""
    return torch.from_numpy(data.known_labels(path, remedy)[data.chosen(most)])


def _fit(target: Path, unit: str, choices: list[Choice], losses: Callable[[list[Choice]], Iterator[FitLoss]]) -> None:
    """Write a row of ``target`` whenever a layer is fitted, so that an interrupted command goes on where it stopped."""
    known = dict(read_importance(target).fits) if target.exists() and read_importance(target).unit == unit else {}
    todo = [choice for choice in choices if choice not in known]
    if known:
        print(f"goes on: {len(known)} of {len(choices)} layers are in {target}", file=sys.stderr)
    done: list[FitLoss] = []
    for loss in losses(todo):
        done.append(loss)
        progress(f"fit {len(choices) - len(todo) + len(done)} of {len(choices)}: {loss.choice}")
        if loss.loses is not None:
            known[loss.choice] = loss.loses
            write_importance(target, Importance({}, unit, fits=known))
    progress("")
    if not known:
        require_some(done)
    refused = [loss for loss in done if loss.loses is None]
    also = f"; {len(refused)} cannot be fitted, the first because {refused[0].refused}" if refused else ""
    print(f"wrote {target}: {len(known)} layers, in {unit}{also}")


COMMAND = Command(
    name="importance",
    description="Estimate without training what a network loses by each change that `layer-folding plan` could make. "
    "--from fit tells how far the outputs are off with each possible fit, without labels; interrupted, it goes on "
    "where it stopped. --from gates and --from one-shot are about exact merges. --from gates tells how far the gates "
    "of the prefold stage are from open. --from one-shot tells how much larger the cross entropy on images is, with "
    "padding hoisted and BatchNorm statistics taken anew. `layer-folding probe` takes longer and knows more: it trains "
    "for a little without each set of activations.",
    example="layer-folding importance runs/demo --from fit --latency runs/demo/latency.csv\n"
    "layer-folding importance runs/demo --from gates\nlayer-folding importance runs/demo --from one-shot",
    add_options=_options,
    function=_run,
)
