"""Images that do not fit in memory: decoded as batches need them, by worker processes, with torchvision's transforms.

An image is moved by a seed of its own that was drawn for it beforehand, so that an epoch is the same whichever worker
decodes what, and however many there are.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from layer_folding.errors import InputError

from .images import read_rgb

CPU = torch.device("cpu")
TEST_RESIZE = 256 / 224  # shorter side of a test image before its centre is cut out, as a multiple of the size


@dataclass(frozen=True)
class Files:
    """Image files, each RGB [3, size, size] once decoded, and their classes, int64 [N]."""

    paths: tuple[Path, ...]
    labels: Tensor
    size: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """[C, size, size] of an image."""
        return 3, self.size, self.size

    def to(self, device: torch.device) -> "Files":
        """The same: only what is decoded gets on a device."""
        return self


Item = tuple[int, int | None]  # the image's index, and the seed that moves it; None takes its centre


def stream(
    files: Files, batches: Sequence[Sequence[Item]], device: torch.device = CPU
) -> Iterator[tuple[Tensor, Tensor]]:
    """``batches`` decoded: images uint8 [N, 3, size, size] and labels [N], on ``device``.

    Of images that are moved, a random part of 8 to 100 % of the area with an aspect ratio of 3/4 to 4/3 is taken, and
    mirrored with probability 1/2 (Szegedy et al. 2015, "Going Deeper with Convolutions", section 6). Raises InputError
    naming an image that does not decode.
    """
    loader = DataLoader(
        _Decoded(files),
        batch_sampler=[list(batch) for batch in batches],
        num_workers=min(_cores(), len(batches)),
        collate_fn=_collate,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # for seeds of the workers that nothing uses; else it is the global one
    )
    for batch in loader:
        if isinstance(batch, InputError):
            raise batch
        images, labels = batch
        yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)


class _Decoded(torch.utils.data.Dataset):
    def __init__(self, files: Files):
        self.files = files
        self.moved = v2.Compose([v2.RandomResizedCrop(files.size), v2.RandomHorizontalFlip(), v2.PILToTensor()])
        self.centre = v2.Compose(
            [v2.Resize(round(TEST_RESIZE * files.size)), v2.CenterCrop(files.size), v2.PILToTensor()]
        )

    def __getitem__(self, item: Item) -> tuple[Tensor, Tensor] | InputError:
        index, seed = item
        try:
            image = read_rgb(self.files.paths[index])
        except InputError as error:
            return error  # raised in a worker, it would come back with a traceback in its message
        if seed is None:
            return self.centre(image), self.files.labels[index]
        with torch.random.fork_rng(devices=()):  # the transforms draw from the global generator
            torch.manual_seed(seed)
            return self.moved(image), self.files.labels[index]


def _cores() -> int:
    """This process's share of the CPU's cores, at least one; torchrun says among how many they are shared."""
    return max((os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1)


def _collate(items: list[tuple[Tensor, Tensor] | InputError]) -> tuple[Tensor, Tensor] | InputError:
    decoded = []
    for item in items:
        if isinstance(item, InputError):
            return item
        decoded.append(item)
    images, labels = zip(*decoded, strict=True)
    return torch.stack(images), torch.stack(labels)
