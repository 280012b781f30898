"""How a stage trains: the hyperparameters, and the command line options that they come from."""

import argparse
import csv
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from fold.errors import InputError
from train.schedule import SCHEDULES

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Hyperparameters:
    """How a stage trains; the options of the same names say what each is (``python -m train prefold --help``).

    ``penalty`` is the paper's lambda, ``remove`` the gates that are opened on a schedule.
    """

    epochs: int
    batch: int
    lr: float
    weight_decay: float
    seed: int
    momentum: float = 0.9
    schedule: str = "one-cycle"
    label_smoothing: float = 0.0
    ema: float = 0.0
    distill: float = 0.0
    temperature: float = 4.0
    distill_features: float = 0.0
    penalty: float = 0.0
    gate_lr: float = 1.0
    gate_weights: Mapping[str, float] | None = None
    remove: tuple[str, ...] = ()
    precision: str = "fp32"
    accumulate: int = 1
    sync_bn: bool = False


def of(options: argparse.Namespace) -> Hyperparameters:
    """The hyperparameters among the parsed ``options``."""
    names = {field.name for field in fields(Hyperparameters)}
    return Hyperparameters(**{name: value for name, value in vars(options).items() if name in names})


def add_training(parser: argparse.ArgumentParser, epochs: int, lr: float) -> None:
    """The options of every stage that trains, with the short names of the original scripts."""
    add = parser.add_argument
    add("-e", "--epochs", type=count, default=epochs, help="0 skips training (%(default)s)")
    add("-b", "--batch", type=positive_count, default=128, help="images a step (%(default)s)")
    add("-lr", "--lr", type=positive, default=lr, help="peak learning rate (%(default)s)")
    add("--schedule", choices=SCHEDULES, default="one-cycle", help="of the learning rate (%(default)s)")
    add("-m", "--momentum", type=fraction, default=0.9, help="of SGD, Nesterov's (%(default)s)")
    add("-wd", "--weight-decay", type=non_negative, default=5e-4, help="none on gates (%(default)s)")
    add("--label-smoothing", type=fraction, default=0.0, help="(%(default)s)")
    add("--ema", type=fraction, default=0.0, metavar="DECAY", help="average weights over steps, e.g. 0.999 (off)")
    add(
        "--precision", choices=PRECISIONS, default="fp32",
        help="of convolutions and products; weights stay fp32. bf16 or fp16 pay on a GPU (%(default)s)",
    )  # fmt: skip
    add("--accumulate", type=positive_count, default=1, metavar="N", help="compute a batch in N parts (%(default)s)")
    add(
        "--sync-bn", action=_OnGPUs, help="under torchrun: BatchNorm over the whole batch, not the part of each process"
    )
    add("--seed", type=count, default=0, help="(%(default)s)")


class _OnGPUs(argparse.Action):
    """A flag that is refused where there is no GPU."""

    def __init__(self, *args: object, **options: object):
        super().__init__(*args, nargs=0, default=False, **options)

    def __call__(self, parser: argparse.ArgumentParser, options: argparse.Namespace, _, flag: str) -> None:
        if not torch.cuda.is_available():
            parser.error(
                f"{flag}: PyTorch has SyncBatchNorm for GPUs only, and there is none here; leave it out, and "
                "each process normalises its own part of the batch"
            )
        setattr(options, self.dest, True)


def add_distillation(parser: argparse.ArgumentParser) -> None:
    """The options of learning from the original network."""
    add = parser.add_argument
    add(
        "--distill", type=_share, default=0.0, metavar="WEIGHT",
        help="share of the loss that is the distance from the original network's logits, 0 to 1 (%(default)s)",
    )  # fmt: skip
    add("--temperature", type=positive, default=4.0, help="that softens these logits (%(default)s)")
    add(
        "--distill-features", type=non_negative, default=0.0, metavar="WEIGHT",
        help="weight of the relative squared distance from its activations, where these stay (%(default)s)",
    )  # fmt: skip


def gate_weights(text: str) -> dict[str, float]:
    """What ``--gate-weights`` says: a JSON object, or a CSV file with the columns gate and weight.

    Raises InputError for a file that holds something else.
    """
    path = Path(text)
    try:
        if path.suffix == ".json":
            pairs = json.loads(path.read_text(encoding="utf-8")).items()
        else:
            with open(path, newline="", encoding="utf-8") as file:
                pairs = [(row["gate"], row["weight"]) for row in csv.DictReader(file)]
        if not pairs:
            raise ValueError("no gate in it")
        weights = {name: non_negative(str(weight)) for name, weight in pairs}
    except (ValueError, KeyError, AttributeError, argparse.ArgumentTypeError) as error:
        raise InputError(
            f"--gate-weights {path}: not as it should be ({error}); give a CSV file with the columns gate,weight, or a "
            "JSON object, with numbers of 0 or more"
        ) from error
    except OSError as error:
        raise InputError(f"--gate-weights {path}: {error.strerror}; give a CSV or JSON file") from error
    return weights


def count(text: str) -> int:
    """A whole number, 0 or more."""
    return _number(text, int, lambda value: value >= 0, "a whole number, 0 or more")


def positive_count(text: str) -> int:
    """A whole number above 0."""
    return _number(text, int, lambda value: value > 0, "a whole number above 0")


def positive(text: str) -> float:
    """A finite number above 0."""
    return _number(text, float, lambda value: 0 < value < math.inf, "a number above 0")


def non_negative(text: str) -> float:
    """A finite number, 0 or more."""
    return _number(text, float, lambda value: 0 <= value < math.inf, "a number, 0 or more")


def fraction(text: str) -> float:
    """A number from 0 to below 1."""
    return _number(text, float, lambda value: 0 <= value < 1, "a number from 0 to below 1")


def _share(text: str) -> float:
    return _number(text, float, lambda value: 0 <= value <= 1, "a number from 0 to 1")


def _number(text: str, kind: type, fits: Callable[[float], bool], wanted: str):
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not fits(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
    return value
