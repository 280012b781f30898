"""Command line: ``python -m train {pretrain,prefold,finetune,evaluate,probe,sweep}``."""

import argparse
import sys
from functools import partial

from fold.cli import run
from train import arguments, distributed, stages
from train.probe import probe
from train.sweep import sweep


def main(given: list[str] | None = None) -> None:
    """Parse the command line and run the stage. Raises InputError and CheckError."""
    options = arguments.parser().parse_args(given)
    run_stage = {
        "pretrain": stages.pretrain,
        "prefold": stages.prefold,
        "finetune": stages.finetune,
        "evaluate": stages.evaluate,
        "probe": probe,
        "sweep": _sweep,
    }
    run_stage[options.stage](options)


def _sweep(options: argparse.Namespace) -> None:
    sweep(options.run, options.lambdas, options.prefold, options.finetune, options.engine, options.model)


if __name__ == "__main__":
    sys.exit(run(partial(distributed.run, main)))
