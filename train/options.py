"""The options of the stages, and the settings that they stand for. `layer_folding.subcommands` reads them."""

import argparse
import shlex
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import torch

from layer_folding.argument_types import count, fraction, non_negative, number, positive, positive_count, share
from layer_folding.bench_results import TITLES
from layer_folding.evalset import SMALLEST_STD
from layer_folding.fit_choices import parse_choice
from layer_folding.fold.gating import THRESHOLD
from layer_folding.fold.models import MODELS, find
from layer_folding.fold.networks import add_trust
from layer_folding.fold.regions.costs import MAX_GROWTH

from . import data, plan_files
from .gate_weight_files import read_gate_weights
from .hyperparameters import PRECISIONS
from .schedules import SCHEDULES
from .settings import FitSettings

Settings = TypeVar("Settings")

MOST_PIXELS = 8192  # an RGB image is 800 MB then, in float32


def settings(kind: Callable[..., Settings], options: argparse.Namespace) -> Settings:
    """The settings ``kind``, a dataclass, from the ``options`` of the same names."""
    given = vars(options)
    return kind(**{field.name: given[field.name] for field in fields(kind) if field.name in given})  # type: ignore[arg-type]


def pretrain(parser: argparse.ArgumentParser) -> None:
    """The options of the stage that makes the network."""
    _run(parser)
    names = f"network: {', '.join(MODELS)}; or torchvision:NAME, timm:NAME, or your own package.module:function"
    network = parser.add_mutually_exclusive_group(required=True)
    network.add_argument("--model", type=_spec, help=names)
    network.add_argument(
        "-d", "--depth", dest="model", type=lambda depth: _spec(f"resnet{depth}"), metavar="N",
        help="short for --model resnetN",
    )  # fmt: skip
    parser.add_argument(
        "--weights", type=Path, help="file of weights, in place of training (.pt, .pth, .th, .safetensors)"
    )
    _data(parser)
    _training(parser, epochs=30, lr=0.1)


def prefold(parser: argparse.ArgumentParser) -> None:
    """The options of the stage that learns which activations can go."""
    _run(parser)
    add_trust(parser)
    _training(parser, epochs=10, lr=0.01)
    _distillation(parser)
    parser.add_argument(
        "-l", "--lambda", dest="penalty", type=non_negative, default=0.25,
        help="weight of the depth penalty (%(default)s)",
    )  # fmt: skip
    aims = parser.add_mutually_exclusive_group()
    aims.add_argument(
        "--gate-weights", type=lambda text: read_gate_weights(Path(text)), metavar="FILE",
        help="weight of each gate in the depth penalty: a CSV file with columns gate,weight or a JSON object (all 1)",
    )  # fmt: skip
    _latency(aims, "latency table: weigh each gate by the time that its removal saves; the mean weight is 1")
    aims.add_argument(
        "--remove", type=plan_files.changes, default=(), metavar="NAME,...|PLAN",
        help="activations to remove on a schedule, while no gate learns; all: every activation with a gate; "
        "+VALUE=ACTIVATION: add a copy of ACTIVATION behind VALUE; a plan with fits is carried out as by `fit`",
    )  # fmt: skip
    aims.add_argument(
        "--remove-count", type=count, default=0, metavar="N",
        help="number of gates to open: lambda rises until N gates are open (off)",
    )  # fmt: skip
    parser.add_argument(
        "--gate-lr", type=positive, default=10.0, help="learning rate of the gates, in multiples of --lr (%(default)s)"
    )
    parser.add_argument(
        "--linear", choices=["affine", "identity"], default="affine",
        help="what a gate opens to: a scale and a shift per channel that fit the activation, or the identity, as in "
        "the paper (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--gate", choices=["foldable", "all"], default="foldable",
        help="activations that get a gate: foldable (the removal lets layers merge), or all (%(default)s)",
    )  # fmt: skip


def fit(parser: argparse.ArgumentParser) -> None:
    """The options of a fit: in a run folder, or of an ONNX file."""
    parser.add_argument("run", type=Path, metavar="RUN", help="the run folder, or an ONNX file")
    add_trust(parser)
    choices = parser.add_mutually_exclusive_group()
    choices.add_argument(
        "--choose", dest="choices", type=parse_choice, nargs="+", metavar="NAME,...=SHAPE",
        help="activations to remove together, and the shape of the layer in their place: a kernel size (3, 3x1), "
        "merged, depthwise or none",
    )  # fmt: skip
    choices.add_argument(
        "--plan",
        metavar="PLAN",
        help="plan.json or plan.txt of `layer-folding plan`; its exact merges are fitted too",
    )
    parser.add_argument(
        "--images", type=_count_or_folder, metavar="N",
        help="number of training images to fit to, without their labels (default: as many as calib.npz has); for an "
        "ONNX file, a folder of images",
    )  # fmt: skip
    parser.add_argument("--seed", type=count, default=FitSettings.seed, help="seed that draws the images (%(default)s)")
    parser.add_argument("--force", action="store_true", help="keep fitted layers that are worse than a constant")
    file = parser.add_argument_group("for an ONNX file")
    limits = file.add_mutually_exclusive_group()
    limits.add_argument(
        "--speedup", type=positive, metavar="S", help="speed-up to reach (without a limit: the fastest network)"
    )
    limits.add_argument("--budget-ms", type=positive, metavar="X", help="latency to keep within, in ms")
    file.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="ONNX file to write; a folder beside it keeps table and plan"
    )
    file.add_argument(
        "-e", "--epochs", type=count, default=0, metavar="N",
        help="epochs of distillation on the images after the fits; the given network is the teacher (%(default)s)",
    )  # fmt: skip
    file.add_argument(
        "--size", type=_pixels, help="width and height of the images in pixels, for a file that leaves them open"
    )
    _normalisation(file)
    file.add_argument(
        "--runtime", default="auto", choices=["auto", *TITLES], help="runtime that times the files (%(default)s)"
    )


def _count_or_folder(text: str) -> int | Path:
    return positive_count(text) if text.lstrip("-").isdigit() else Path(text)


def finetune(parser: argparse.ArgumentParser) -> None:
    """The options of the stage that removes activations."""
    _run(parser)
    add_trust(parser)
    _training(parser, epochs=10, lr=0.02)
    _distillation(parser)
    parser.add_argument(
        "--threshold",
        type=non_negative,
        default=THRESHOLD,
        help="remove the activation of each gate that has this value or more (%(default)s)",
    )
    parser.add_argument(
        "--max-growth", type=positive, default=MAX_GROWTH,
        help="put an activation back where its merge would take more than this many times the MACs, unless --remove "
        "named it (%(default)s)",
    )  # fmt: skip


def evaluate(parser: argparse.ArgumentParser) -> None:
    """The checkpoints to evaluate, and on which images."""
    parser.add_argument("checkpoints", nargs="+", type=Path, metavar="CHECKPOINT", help="checkpoints of a run folder")
    add_trust(parser)
    _data(parser)


def probe(parser: argparse.ArgumentParser) -> None:
    """The options of short trainings."""
    _run(parser)
    add_trust(parser)
    _training(parser, epochs=1, lr=0.02)
    _latency(parser, "latency table: probe only sets whose removal makes the network faster by it")


def sweep(parser: argparse.ArgumentParser) -> None:
    """The options of a sweep."""
    _run(parser)
    over = parser.add_mutually_exclusive_group()
    over.add_argument(
        "--lambdas", type=non_negative, nargs="+", default=[0.05, 0.1, 0.25, 0.5, 1.0], metavar="X",
        help="weights of the depth penalty, a run folder RUN/lambda-X for each (0.05 0.1 0.25 0.5 1)",
    )  # fmt: skip
    over.add_argument(
        "--speedups", type=positive, nargs="+", default=[], metavar="S",
        help="plan, fit, finetune and fold for each of these speed-ups in place of lambdas, each in RUN/speedup-S",
    )  # fmt: skip
    for name in ("latency", "importance"):
        parser.add_argument(
            f"--{name}", type=Path, metavar="CSV", help=f"{name} table to plan by, for --speedups (RUN/{name}.csv)"
        )
    add_trust(parser)
    for stage in ("prefold", "finetune"):
        parser.add_argument(
            f"--{stage}",
            type=shlex.split,
            default=[],
            metavar="'OPTIONS'",
            help=f"options for each {stage}, between quotes",
        )
    parser.add_argument(
        "--engine", choices=["sequential", "ray"], default="sequential",
        help="run points one after the other, or as tasks on a Ray cluster (RAY_ADDRESS, else one on this machine)",
    )  # fmt: skip


def _run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", required=True, type=Path, metavar="DIR", help="the run folder")


def _latency(parser: "argparse._ActionsContainer", purpose: str) -> None:
    parser.add_argument("--latency", type=Path, metavar="CSV", help=purpose)


def _data(parser: argparse.ArgumentParser) -> None:
    """Options that say which images, and what a network gets of them."""
    names = f"data set: {', '.join(data.NAMES)}, or a folder with train/CLASS and test/CLASS (or val/CLASS) images"
    parser.add_argument("--data", required=True, help=names)
    parser.add_argument(
        "--size", type=_pixels, default=32, help="width and height of the images, in pixels (%(default)s)"
    )
    _normalisation(parser)


def _normalisation(parser: argparse._ActionsContainer) -> None:
    for name, kind, what in (("mean", share, "mean"), ("std", _std, "standard deviation")):
        parser.add_argument(
            f"--{name}", type=kind, nargs="+", action=_Tuple, metavar="X",
            help=f"{what} of each channel in training, for values from 0 to 1 (ImageNet's; 0.5 for gray)",
        )  # fmt: skip


def _training(parser: argparse.ArgumentParser, epochs: int, lr: float) -> None:
    """The options of every stage that trains, with the short names of the original scripts."""
    add = parser.add_argument
    add("-e", "--epochs", type=count, default=epochs, help="epochs to train; 0 skips training (%(default)s)")
    add("-b", "--batch", type=positive_count, default=128, help="images in a training step (%(default)s)")
    add("-lr", "--lr", type=positive, default=lr, help="peak learning rate (%(default)s)")
    add("--schedule", choices=SCHEDULES, default="one-cycle", help="course of the learning rate (%(default)s)")
    add("-m", "--momentum", type=fraction, default=0.9, help="momentum of SGD, after Nesterov (%(default)s)")
    add("-wd", "--weight-decay", type=non_negative, default=5e-4, help="weight decay; gates have none (%(default)s)")
    add(
        "--label-smoothing",
        type=fraction,
        default=0.0,
        help="share of the target spread over all classes (%(default)s)",
    )
    add(
        "--ema",
        type=fraction,
        default=0.0,
        metavar="DECAY",
        help="decay of the average of the weights over steps, e.g. 0.999 (off)",
    )
    add(
        "--precision", choices=PRECISIONS, default="fp32",
        help="precision of convolutions and products; weights stay fp32; bf16 and fp16 pay on a GPU (%(default)s)",
    )  # fmt: skip
    add("--accumulate", type=positive_count, default=1, metavar="N", help="compute a batch in N parts (%(default)s)")
    add(
        "--sync-bn", action=_OnGPUs, nargs=0, default=False,
        help="under torchrun: BatchNorm over the whole batch, not over the part of each process",
    )  # fmt: skip
    add("--seed", type=count, default=0, help="seed of weights, shuffling and augmentation (%(default)s)")


def _distillation(parser: argparse.ArgumentParser) -> None:
    """The options of learning from the original network."""
    add = parser.add_argument
    add(
        "--distill", type=share, metavar="WEIGHT",
        help="share of the distance from the original network's logits in the loss, 0 to 1 (0; for images without "
        "labels 1)",
    )  # fmt: skip
    add(
        "--temperature",
        type=positive,
        default=4.0,
        help="temperature that softens the logits for --distill (%(default)s)",
    )
    add(
        "--distill-features", type=non_negative, default=0.0, metavar="WEIGHT",
        help="weight of the relative squared distance from the original's activations in the loss (%(default)s)",
    )  # fmt: skip


class _Tuple(argparse.Action):
    """Several values as a tuple, as the settings have them."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: object) -> None:
        setattr(namespace, self.dest, tuple(values))


class _OnGPUs(argparse.Action):
    """A flag that is refused where there is no GPU."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        if not torch.cuda.is_available():
            parser.error(
                f"{option_string}: PyTorch has SyncBatchNorm for GPUs only, and there is none here; leave it out, and "
                "each process normalises its own part of the batch"
            )
        setattr(namespace, self.dest, True)


def _spec(text: str) -> str:
    if ":" not in text:
        find(text)  # raises before any data is read
    return text


def _pixels(text: str) -> int:
    return int(number(text, int, lambda size: 1 <= size <= MOST_PIXELS, f"a size from 1 to {MOST_PIXELS}"))


def _std(text: str) -> float:
    wanted = f"a standard deviation of values from 0 to 1: {SMALLEST_STD} to 1"
    return number(text, float, lambda std: SMALLEST_STD <= std <= 1, wanted)
