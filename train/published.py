"""MNIST and CIFAR, as torchvision downloads and checks them."""

import contextlib
import os
import sys
from pathlib import Path

import torch
from torch import Tensor
from torchvision import datasets

from layer_folding.errors import InputError

PUBLISHED: dict[str, type[datasets.MNIST] | type[datasets.CIFAR10]] = {
    "mnist": datasets.MNIST,
    "cifar10": datasets.CIFAR10,
    "cifar100": datasets.CIFAR100,
}


def read_published(name: str) -> tuple[tuple[str, ...], dict[str, tuple[Tensor, Tensor]]]:
    """The class names, and for "train" and "test" images uint8 [N, C, H, W] and labels int64 [N] of ``name``.

    Downloads what is not yet in `cache_folder`; a file that came only in part, or is not what was published, is
    downloaded again. Raises InputError that says what to put where when that fails.
    """
    kind, root = PUBLISHED[name], cache_folder() / "datasets"
    try:
        with contextlib.redirect_stdout(sys.stderr):
            splits = {split: kind(root, train=split == "train", download=True) for split in ("train", "test")}
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"data {name!r}: cannot be downloaded ({reason}); {_by_hand(kind, root)}") from error
    except Exception as error:  # MNIST's files have no checksum once they are unpacked, and can raise almost anything
        raise InputError(f"data {name!r}: damaged; remove {root / kind.__name__} and run the command again") from error
    tensors = {split: (_images(data.data), torch.as_tensor(data.targets)) for split, data in splits.items()}
    return tuple(name.split(" - ")[0] for name in splits["train"].classes), tensors


def cache_folder() -> Path:
    """Where data is kept between runs: ``$XDG_CACHE_HOME/layer-folding``, ``~/.cache/layer-folding`` without that."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "layer-folding"


def _images(data: object) -> Tensor:
    """[N, H, W] or [N, H, W, 3] as [N, C, H, W]."""
    images = torch.as_tensor(data)
    return (images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)).contiguous()


def _by_hand(kind: type[datasets.MNIST] | type[datasets.CIFAR10], root: Path) -> str:
    """Which files to put where."""
    if issubclass(kind, datasets.MNIST):
        names, url, folder = [name for name, _ in kind.resources], kind.mirrors[0], root / "MNIST" / "raw"
    else:
        names, url, folder = [kind.filename], kind.url, root
    return f"put {', '.join(names)} from {url} into {folder} and run the command again"
