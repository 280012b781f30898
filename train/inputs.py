"""--model, --data and --weights: the network and the data set that they mean, in every stage."""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

from fold import specs
from fold.errors import InputError
from train import data
from train.models import MODELS, find
from train.models.layouts import split_gates, variant, with_our_names
from train.models.weights import apply_weights, load_weights


def add_network(parser: argparse.ArgumentParser) -> None:
    """Options of the stage that makes the network."""
    names = f"{', '.join(MODELS)}; or torchvision:NAME, timm:NAME, or package.module:function of your own"
    network = parser.add_mutually_exclusive_group(required=True)
    network.add_argument("--model", type=_spec, help=names)
    network.add_argument(
        "-d", "--depth", dest="model", type=lambda depth: _spec(f"resnet{depth}"), metavar="N",
        help="short for --model resnetN",
    )  # fmt: skip
    parser.add_argument("--weights", type=Path, help="take these instead of training (.pt, .pth, .th, .safetensors)")


def add_named(parser: argparse.ArgumentParser) -> None:
    """The option of later stages that allows a checkpoint to run the caller's own code."""
    parser.add_argument(
        "--model", metavar="SPEC", help="the network's own code, if pretrain was given package.module:fn"
    )


def add_data(parser: argparse.ArgumentParser) -> None:
    """Options that say which images, and what a network gets of them."""
    names = f"{', '.join(data.NAMES)}, or a folder with train/CLASS and test/CLASS (or val/CLASS) images"
    parser.add_argument("--data", required=True, help=names)
    parser.add_argument(
        "--size", type=_pixels, default=32, help="pixels each way that images are brought to (%(default)s)"
    )
    for name, what in (("mean", "mean"), ("std", "standard deviation")):
        parser.add_argument(
            f"--{name}", type=float, nargs="+", metavar="X",
            help=f"{what} of each channel that the network was trained with, of 0..1 (ImageNet's; 0.5 for gray)",
        )  # fmt: skip


def data_settings(options: argparse.Namespace) -> dict:
    """What `dataset` needs to give the same images again, from any folder, as JSON values."""
    where = options.data if options.data in data.NAMES else str(Path(options.data).expanduser().resolve())
    return {"data": where, "size": options.size, "mean": options.mean, "std": options.std}


def dataset(settings: dict) -> data.Dataset:
    """The data set that `data_settings` noted. Raises InputError as `train.data.load` does."""
    return data.normalised(data.load(settings["data"], settings["size"]), settings["mean"], settings["std"])


def network(options: argparse.Namespace, dataset: data.Dataset) -> tuple[nn.Module, dict, dict[str, float]]:
    """The network for ``dataset``: with the weights that were given, else fresh ones from the seed; what a recipe says
    under "model"; and the gates that the weights have.

    Raises InputError for an unknown network, one that does not take such images, and weights that do not fit it.
    """
    spec = specs.resolve(options.model)
    library, _, name = spec.partition(":")
    arguments = specs.arguments_for(spec, dataset.shape, len(dataset.classes), named=options.model)
    weights, gates = None, {}
    if options.weights is not None:
        weights, gates = split_gates(load_weights(options.weights))
        if library == "train.models":
            weights = with_our_names(name, weights)
            arguments |= variant(name, weights)
    torch.manual_seed(options.seed)
    model = specs.build(spec, arguments, named=options.model)
    if weights is not None:
        apply_weights(model, weights, options.weights)
    _check(model, spec, dataset)
    return model, {"spec": spec, "arguments": arguments}, gates


def _check(model: nn.Module, spec: str, dataset: data.Dataset) -> None:
    """Raise InputError where ``model`` does not give one logit a class for an image of ``dataset``."""
    images = f"images {list(dataset.shape)}"
    model.eval()
    try:
        with torch.no_grad():
            logits = model(torch.zeros(1, *dataset.shape))
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise InputError(
            f"model {spec!r}: does not take {images} ({error}); give another --size or --data, or a network for these"
        ) from error
    model.train()
    classes = len(dataset.classes)
    if not isinstance(logits, Tensor) or logits.shape != (1, classes):
        given = f"a tensor {list(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(
            f"model {spec!r}: gives {given} for one of the {images}, not [1, {classes}] logits; let it take num_classes"
        )


def _spec(text: str) -> str:
    if ":" not in text:
        find(text)  # raises before any data is read
    return text


def _pixels(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)
