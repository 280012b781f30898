"""The command line's stages and their options."""

import argparse
import shlex
from pathlib import Path

from fold.cli import Parser
from fold.cost import MAX_GROWTH
from train import hyperparameters, inputs, planned
from train.gates import THRESHOLD

_DESCRIPTION = "Train a network, learn which of its activations can go, remove those, and train it again."
_EPILOG = """\
example, from weights to a network that `python -m fold` folds:
  python -m train pretrain --run runs/cars --model resnet20 --data cars/ --weights resnet20.pt
  python -m train prefold  --run runs/cars --epochs 20
  python -m train finetune --run runs/cars --epochs 20

Each stage leaves a checkpoint in the run folder, and after every epoch what it needs to go on: a command that was
interrupted goes on when it is given again. Exit codes: 0 done, 1 ran and failed a check, 2 bad input.
"""


def parser() -> Parser:
    """The parser of all stages; what it returns has the name of the stage as ``stage``."""
    parser = Parser(prog="python -m train", description=_DESCRIPTION, epilog=_EPILOG)
    stages = parser.add_subparsers(
        dest="stage", required=True, metavar="{pretrain,prefold,finetune,evaluate,probe,sweep}"
    )

    pretrain = _stage(stages, "pretrain", "train the network, or take its weights from a file")
    pretrain.epilog = "example: python -m train pretrain --run runs/cars -d 20 --data cars/ --weights resnet20.pt"
    inputs.add_network(pretrain)
    inputs.add_data(pretrain)
    hyperparameters.add_training(pretrain, epochs=30, lr=0.1)

    prefold = _stage(stages, "prefold", "learn which activations can go")
    prefold.epilog = "example: python -m train prefold --run runs/cars --epochs 20 --distill 0.9"
    inputs.add_named(prefold)
    hyperparameters.add_training(prefold, epochs=10, lr=0.01)
    hyperparameters.add_distillation(prefold)
    prefold.add_argument(
        "-l", "--lambda", dest="penalty", type=hyperparameters.non_negative, default=0.25,
        help="weight of the depth penalty (%(default)s)",
    )  # fmt: skip
    aims = prefold.add_mutually_exclusive_group()
    aims.add_argument(
        "--gate-weights", type=hyperparameters.gate_weights, metavar="FILE",
        help="weight of each gate in the depth penalty: a CSV file with columns gate,weight or a JSON object (all 1)",
    )  # fmt: skip
    aims.add_argument(
        "--latency", type=Path, metavar="CSV",
        help="weight of each gate by the time that its removal saves in this latency table, 1 in the mean",
    )  # fmt: skip
    aims.add_argument(
        "--remove", type=planned.names, default=[], metavar="NAME,...|FILE",
        help="learn no gates: open these on a schedule and keep all others closed; 'all' is all that --gate has; "
        "+VALUE=ACTIVATION adds a copy of ACTIVATION behind VALUE",
    )  # fmt: skip
    prefold.add_argument(
        "--gate-lr", type=hyperparameters.positive, default=10.0,
        help="learning rate of the gates, in multiples of --lr (%(default)s)",
    )  # fmt: skip
    prefold.add_argument(
        "--gate", choices=["foldable", "all"], default="foldable",
        help="gate the activations whose removal lets layers merge, or all of them (%(default)s)",
    )  # fmt: skip

    finetune = _stage(stages, "finetune", "remove the activations whose gates are open, hoist, train again")
    finetune.epilog = "example: python -m train finetune --run runs/cars --epochs 20 --distill 0.9"
    inputs.add_named(finetune)
    hyperparameters.add_training(finetune, epochs=10, lr=0.02)
    hyperparameters.add_distillation(finetune)
    finetune.add_argument(
        "--threshold", type=hyperparameters.non_negative, default=THRESHOLD,
        help="gates from here on are taken out (%(default)s)",
    )  # fmt: skip
    finetune.add_argument(
        "--max-growth", type=hyperparameters.positive, default=MAX_GROWTH,
        help="an activation that --remove did not name stays where the merge would take more than this many times "
        "the MACs (%(default)s)",
    )  # fmt: skip

    evaluate = stages.add_parser("evaluate", help="accuracy of checkpoints", description="Accuracy of checkpoints.")
    evaluate.epilog = "example: python -m train evaluate runs/cars/original.safetensors --data cars/"
    evaluate.add_argument("checkpoints", nargs="+", type=Path, metavar="CHECKPOINT")
    inputs.add_named(evaluate)
    inputs.add_data(evaluate)

    probe = _stage(stages, "probe", "what the network loses with its activations: a short training without each set")
    probe.description = (
        "For each set of activations whose removal lets layers merge, train the original network for a little without "
        "it. Writes RUN/importance.csv for `python -m fold plan --importance`; interrupted, it goes on."
    )
    probe.epilog = "example: python -m train probe --run runs/demo --latency runs/demo/latency.csv --epochs 1"
    inputs.add_named(probe)
    hyperparameters.add_training(probe, epochs=1, lr=0.02)
    probe.add_argument(
        "--latency", type=Path, metavar="CSV", help="only sets that make the network faster by this latency table"
    )

    sweeping = _stage(stages, "sweep", "prefold, finetune and fold with several lambdas: accuracy against depth")
    sweeping.epilog = "example: python -m train sweep --run runs/demo --lambdas 0.1 0.25 1 --prefold='--epochs 20'"
    sweeping.add_argument(
        "--lambdas", type=hyperparameters.non_negative, nargs="+", default=[0.05, 0.1, 0.25, 0.5, 1.0], metavar="X",
        help="weights of the depth penalty, a run folder RUN/lambda-X for each (0.05 0.1 0.25 0.5 1)",
    )  # fmt: skip
    inputs.add_named(sweeping)
    for stage in ("prefold", "finetune"):
        sweeping.add_argument(
            f"--{stage}", type=shlex.split, default=[], metavar="'OPTIONS'", help=f"options of {stage}, see its --help"
        )
    sweeping.add_argument(
        "--engine", choices=["sequential", "ray"], default="sequential",
        help="one after the other, or as tasks on a Ray cluster: that of RAY_ADDRESS, or one on this machine",
    )  # fmt: skip
    return parser


def _stage(stages, name: str, summary: str) -> argparse.ArgumentParser:
    parser = stages.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
    parser.add_argument("--run", required=True, type=Path, metavar="DIR", help="the run folder")
    return parser
