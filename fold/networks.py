"""The network that an argument on the command line means."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from layer_folding.errors import InputError
from layer_folding.evalset import EvalSet
from layer_folding.stages import PRETRAIN

from . import checkpoints, model_names


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add ``--trust``, without which no code of the caller's own is imported."""
    parser.add_argument(
        "--trust", metavar="PKG.MOD:FN", help="your own function that a checkpoint may run to build its network"
    )


def add_input(parser: argparse.ArgumentParser) -> None:
    """Add ``--input``, the shape that `open_network` needs with a name."""
    parser.add_argument(
        "--input", type=int, nargs="+", metavar="N",
        help="channels, height and width of one image, for the name of a network",
    )  # fmt: skip


def open_network(text: str, shape: Sequence[int] | None, trust: str | None = None) -> tuple[nn.Module, tuple[int, ...]]:
    """The network ``text`` and the shape `[C, H, W]` of one image.

    ``text`` is a run folder, whose original network is meant, a checkpoint, or a name (`fold.model_names`), which comes
    with fresh weights and needs ``shape``. A checkpoint of the caller's own code needs ``trust``. Raises InputError.
    """
    if text.endswith(".safetensors") or Path(text).exists():
        path = Path(text) / PRETRAIN.file if Path(text).is_dir() else Path(text)
        model, recipe = checkpoints.load(path, trust)
        return model, recipe.input_shape
    if "/" in text:
        raise InputError(f"{text}: no such run folder or checkpoint; see `make help` for the stages that write one")
    if not shape or min(shape) < 1:
        raise InputError(f"{text}: the name of a network needs the size of an image, such as --input 3 224 224")
    arguments = model_names.arguments_for(text, shape, trust=text)
    return model_names.build(text, arguments, trust=text).eval(), tuple(shape)


def classes_of(model: nn.Module, shape: Sequence[int]) -> int:
    """The number of classes of a classifier of images ``shape`` [C, H, W]. Raises InputError for another network."""
    with torch.no_grad():
        logits = model(torch.zeros(1, *shape))
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
        given = f"a tensor {list(logits.shape)}" if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise InputError(f"the network gives {given} for an image, not a score for each class, and has no accuracy")
    return logits.shape[1]


def require_images(images: EvalSet, path: Path, model: nn.Module, shape: Sequence[int]) -> None:
    """Raise InputError unless ``model`` takes the ``images`` of the file ``path``, of ``shape`` [C, H, W].

    Where these have labels, it has to be a classifier of as many classes.
    """
    if images.labels is None:
        images.require_shape(path, shape)
    else:
        images.require(path, shape, classes_of(model, shape))
