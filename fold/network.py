"""The network that an argument on the command line means."""

import argparse
from pathlib import Path

from torch import nn

from fold import checkpoint, specs
from fold.errors import InputError


def add_named(parser: argparse.ArgumentParser) -> None:
    """Add ``--model``, without which no code of the caller's own is imported."""
    parser.add_argument("--model", metavar="SPEC", help="the network's own code, if it was made by package.module:fn")


def open_network(text: str, shape: list[int] | None, named: str | None = None) -> tuple[nn.Module, list[int]]:
    """The network ``text`` and the shape `[C, H, W]` of one image.

    ``text`` is a run folder, whose original network is meant, a checkpoint, or a name (`fold.specs`), which comes with
    fresh weights and needs ``shape``. A checkpoint of the caller's own code needs it ``named``. Raises InputError.
    """
    if text.endswith(".safetensors") or Path(text).exists():
        path = Path(text) / "original.safetensors" if Path(text).is_dir() else Path(text)
        model, recipe = checkpoint.load(path, named)
        return model, recipe["input_shape"]
    if "/" in text:
        raise InputError(f"{text}: no such run folder or checkpoint; see `make help` for the stages that write one")
    if not shape or min(shape) < 1:
        raise InputError(f"{text}: a name needs the size of an image, such as --input 3 224 224")
    return specs.build(text, specs.arguments_for(text, shape, named=text), named=text).eval(), shape
