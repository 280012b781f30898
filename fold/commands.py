"""The commands ``fold``, ``scan``, ``plan`` and ``importance``."""

import argparse
import json
from pathlib import Path

import torch

from layer_folding import subcommands
from layer_folding.stages import FOLD
from layer_folding.subcommands import Command

from . import reporting
from .folding import scan
from .networks import add_input, add_trust, open_network
from .plan import importance_command, plan_command
from .run_folding import NothingMerged, fold_run


def main(arguments: list[str] | None = None, program: str = "python -m fold") -> None:
    """Run a command line of ``fold``, ``scan``, ``plan`` or ``importance``. Raises InputError and CheckError."""
    subcommands.call(COMMANDS, arguments, program)


def _fold_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="the run folder")
    add_trust(parser)


def _scan_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("network", help="checkpoint, or name of a network such as resnet20 or torchvision:resnet50")
    add_input(parser)
    add_trust(parser)
    parser.add_argument("--json", action="store_true", help="print JSON in place of tables")


def _fold(options: argparse.Namespace) -> None:
    try:
        done = fold_run(options.run, options.trust)
    except NothingMerged as error:
        print(reporting.reasons(error.skipped))
        raise
    print(reporting.merges(done.result.folded))
    print()
    print(reporting.before_after(done.costs, done.recipe.accuracy))
    print()
    same = ""
    if done.agreement is not None:
        same = f", the same class for {done.agreement.same} of {done.agreement.images} images "
        same += f"({done.agreement.ties} ties at rounding)"
    print(
        f"folded against fine-tuned network: largest difference {done.result.max_error:.0e} (relative, float64){same}"
    )
    print(f"wrote {options.run / FOLD.file} and {options.run / 'fold.json'}")


def _scan(options: argparse.Namespace) -> None:
    model, shape = open_network(options.network, options.input, options.trust)
    result = scan(model, torch.zeros(1, *shape))
    if options.json:
        print(json.dumps(reporting.as_json(result), indent=2))
        return
    if result.candidates:
        print(reporting.merges(result.candidates))
    if result.skipped:
        print()
        print(reporting.reasons(result.skipped))


COMMANDS = (
    Command(
        name="scan",
        description="List the layers that would merge if the activations between them were removed, and the layers "
        "that stay, with the reason. Write nothing.",
        example="layer-folding scan torchvision:resnet50 --input 3 224 224\n"
        "layer-folding scan runs/demo/original.safetensors",
        add_options=_scan_options,
        function=_scan,
    ),
    Command(
        name="fold",
        description="Merge the layers of a fine-tuned network, exactly. Read hardened.safetensors and eval.npz of a "
        "run; write folded.safetensors and fold.json there. Exit code 1: there is nothing to fold, or a check failed.",
        example="layer-folding fold runs/demo",
        add_options=_fold_options,
        function=_fold,
    ),
    plan_command.COMMAND,
    importance_command.COMMAND,
)
