"""The command ``plan``: what to fold on the device that a latency table was measured on."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from layer_folding.argument_types import non_negative, positive, positive_count
from layer_folding.catalogue import need
from layer_folding.command_line import progress
from layer_folding.errors import InputError
from layer_folding.evalset import EvalSet, read_evalset
from layer_folding.importance_tables import read_importance
from layer_folding.latency_rows import read_chain
from layer_folding.latency_tables import Table, read_table
from layer_folding.outputs import PICTURE, PLAN, SPLITS, output_file
from layer_folding.plans import Plan
from layer_folding.subcommands import Command

from .. import planning
from ..networks import add_input, add_trust, open_network, require_images
from .chain_splits import optimal_splits, write_splits
from .presenting import as_text, write


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("network", nargs="?", help="run folder or checkpoint, or name of a network with --input")
    add_input(parser)
    add_trust(parser)
    parser.add_argument(
        "--latency", required=True, type=Path, metavar="CSV", help="latency table from `layer-folding table`"
    )
    parser.add_argument("--device", metavar="NAME", help="device that the table must be from (default: any)")
    parser.add_argument(
        "--batch", type=positive_count, metavar="N", help="batch size that the table must have (default: any)"
    )
    parser.add_argument(
        "--precision", metavar="P", help="precision that the table must have, such as int8 (default: any)"
    )
    parser.add_argument(
        "--importance",
        type=Path,
        metavar="CSV",
        help="table of what each merge or fit loses, from `layer-folding importance` or `probe` (default: each "
        "activation counts 1)",
    )
    parser.add_argument(
        "--measure", action="store_true",
        help="carry out some of the best plans by least squares on calib.npz, and say how far their outputs are off",
    )  # fmt: skip
    limit = parser.add_mutually_exclusive_group()
    limit.add_argument("--budget-ms", type=positive, metavar="X", help="plan for at most this latency, in ms")
    limit.add_argument("--speedup", type=positive, metavar="S", help="plan for at least this speed-up")
    limit.add_argument(
        "--max-loss", type=non_negative, metavar="X",
        help="plan the fastest network that loses at most X points of accuracy, as measured on fitted networks",
    )  # fmt: skip
    limit.add_argument(
        "--optimal", type=Path, metavar="CSV", help="write the fastest split of each row of the table, and no plan"
    )
    parser.add_argument(
        "--held-out", type=Path, metavar="NPZ",
        help="labelled images for --max-loss, none of them in calib.npz (default: heldout.npz in the run folder)",
    )  # fmt: skip
    parser.add_argument(
        "--unlabelled", action="store_true",
        help="use no labels: --max-loss is a divergence of the outputs, in nats, or in their variances for no classes",
    )  # fmt: skip
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="folder to write to (default: the run folder)")


def _run(options: argparse.Namespace) -> None:
    wanted = {"device": options.device, "batch": options.batch, "precision": options.precision}
    if options.optimal:
        if any(value is not None for value in wanted.values()):
            _require(read_table(options.latency), wanted)
        output_file("--optimal", options.optimal, SPLITS, [options.latency])
        _write_optimal(options.latency, options.optimal)
        return
    if options.network is None:
        raise InputError("plan: no network; give a run folder, a checkpoint or a name, or --optimal for a table alone")
    need("plan", "matplotlib")  # plan.png
    folder = options.output or (Path(options.network) if Path(options.network).is_dir() else None)
    if folder is None:
        raise InputError(
            f"{options.network}: is no run folder; give one that `make pretrain` has made, or -o DIR to write to"
        )
    _check_measuring(options)
    output_file("-o", folder / "plan.json", PLAN)
    output_file("-o", folder / "plan.png", PICTURE)
    table = read_table(options.latency)
    _require(table, wanted)
    importance = read_importance(options.importance) if options.importance else None
    model, shape = open_network(options.network, options.input, options.trust)
    run, bounded = Path(options.network), options.max_loss is not None
    images = _inputs(_read(run, run / "calib.npz", model, shape)) if options.measure or bounded else None
    held_out = _held_out(options, run, model, shape) if bounded else None
    chosen = planning.plan(
        model,
        torch.zeros(1, *shape),
        table,
        speedup=options.speedup,
        budget_ms=options.budget_ms,
        max_loss=options.max_loss,
        importance=importance,
        images=images,
        held_out=held_out,
        progress=progress,
    )
    write(folder, replace(chosen, network=options.network))
    for note in chosen.notes:
        print(f"note: {note}", file=sys.stderr)
    print(f"{as_text(chosen)}\nwrote {folder / 'plan.json'}, plan.txt and plan.png")
    print(_next(run, folder, chosen) if chosen.merges else _nothing(chosen))


def _check_measuring(options: argparse.Namespace) -> None:
    bounded = options.max_loss is not None
    if bounded and options.measure:
        raise InputError("--measure: --max-loss measures the plans that it tries; leave --measure out")
    for name in ("held_out", "unlabelled"):
        if getattr(options, name) and not bounded:
            raise InputError(f"--{name.replace('_', '-')}: is for --max-loss; give a bound, or leave it out")


def _held_out(
    options: argparse.Namespace, run: Path, model: nn.Module, shape: Sequence[int]
) -> Tensor | tuple[Tensor, Tensor]:
    """The images to measure losses on, and their labels unless these are not to be used."""
    path = options.held_out or run / "heldout.npz"
    data = _read(run, path, model, shape)
    if options.unlabelled:
        return _inputs(data)
    labels = data.known_labels(
        path, "give --unlabelled, for a bound of the divergence, or another limit than --max-loss"
    )
    return _inputs(data), torch.from_numpy(labels)


def _read(run: Path, path: Path, model: nn.Module, shape: Sequence[int]) -> EvalSet:
    """The images of ``path``, to measure plans for the run folder ``run``."""
    if not run.is_dir():
        raise InputError(f"{run}: is no run folder, so it has no images to measure plans on; give a run folder")
    data = read_evalset(path)
    require_images(data, path, model, shape)
    return data


def _inputs(data: EvalSet) -> Tensor:
    return torch.from_numpy(data.inputs())


def _require(table: Table, wanted: Mapping[str, str | int | None]) -> None:
    """Raise InputError where ``table`` was measured under other conditions than ``wanted``; None will do with any."""
    for name, value in wanted.items():
        measured = vars(table.conditions)[name]
        if value not in (None, measured):
            raise InputError(
                f"{table.source}: measured with {name} {measured}, not {value}; measure again, with `make table`, or "
                f"give --{name} '{measured}' to plan with this table all the same"
            )


def _write_optimal(latency: Path, output: Path) -> None:
    rows = read_chain(latency)
    write_splits(output, rows, optimal_splits(rows))
    print(f"wrote {output}: the fastest splits of {len(rows)} segments")


def _nothing(chosen: Plan) -> str:
    if len(chosen.frontier) == 1:  # no merge was on offer
        reason = "nothing is faster than the layers apart"
    elif chosen.max_loss is not None:
        reason = f"no plan that was tried loses at most {chosen.max_loss.most:g} {chosen.max_loss.unit}"
    else:
        reason = "it is fast enough as it is"
    return f"the plan is to fold nothing: keep the original network, {reason}"


def _next(network: Path, folder: Path, chosen: Plan) -> str:
    """How to carry out a plan for ``network``: in a run folder that has not been prefolded, stages are done once."""
    stages, removed = "make prefold fold export trt-bench", folder / "plan.txt"
    if chosen.max_loss is not None:
        return f"to carry it out as it was measured: layer-folding fit {network} --plan {folder / 'plan.json'}"
    if not network.is_dir():
        return f"to carry it out, give {stages} PLAN={removed} and MODEL, DATA and WEIGHTS"
    if not (network / "prefold.safetensors").exists():
        return f"to carry it out: {stages} RUN={network} PLAN={removed}"
    return (
        f"to carry it out, in another run folder because {network} has been prefolded: {stages} RUN={network}-planned "
        f"PLAN={removed} WEIGHTS={network / 'original.safetensors'} and MODEL, DATA and SIZE as for {network}"
    )


COMMAND = Command(
    name="plan",
    description="Choose by measured latency what to fold: which layers to merge, and where to fit one smaller layer. A "
    "merge or fit that the table does not show to be faster is left out, so folding never makes the network slower. "
    "Without a limit, the plan is the fastest network. Within a latency or a speed-up, the plan loses least "
    "importance. With --max-loss, some ten plans are fitted and measured, and the plan is the fastest within the "
    "bound. Write plan.json, plan.txt (the activations to remove, and fits as ACTIVATION=SHAPE) and plan.png. Exit "
    "code 1: no plan is that fast.",
    example="layer-folding plan runs/demo --latency runs/demo/latency.csv\n"
    "layer-folding plan runs/demo --latency runs/demo/latency.csv --importance runs/demo/importance.csv --speedup 1.3\n"
    "layer-folding plan runs/demo --latency runs/demo/latency.csv --measure\n"
    "layer-folding plan runs/demo --latency runs/demo/latency.csv --max-loss 0.5\n"
    "layer-folding plan torchvision:resnet18 --input 3 224 224 --latency latency.csv -o plans/resnet18\n"
    "layer-folding plan --latency mobilenetv2-1.0-time.csv --optimal optimal.csv",
    add_options=_options,
    function=_run,
)
