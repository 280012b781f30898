"""Batches of a data set as a network takes them: float32, normalised, on the device; for training also augmented.

    generator = torch.Generator().manual_seed(seed)  # the only source of randomness
    for images, labels in training_batches(dataset, 128, generator, device):
        ...

``batch`` counts the images of a step in all processes together. Process ``rank`` of ``world`` gets its part of each
batch, and the parts in order are the batch that one process alone would get.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from layer_folding.errors import InputError

from .data import Dataset, Split
from .stream import Files, stream


def steps(dataset: Dataset, batch: int) -> int:
    """The number of training batches an epoch: whole ones (BatchNorm would see few images in a short last one), or one
    short one where the whole set is smaller than ``batch``."""
    return max(len(dataset.train.labels) // batch, 1)


def training_batches(
    dataset: Dataset, batch: int, generator: torch.Generator, device: torch.device, rank: int = 0, world: int = 1
) -> Iterator[tuple[Tensor, Tensor]]:
    """An epoch of ``steps`` shuffled batches: images float32 [N, C, H, W], augmented and normalised, and labels [N].

    What is drawn from ``generator`` depends on neither ``rank``, ``world`` nor ``device``. Raises InputError where
    ``world`` processes cannot share a batch evenly.
    """
    count = len(dataset.train.labels)
    part = share(min(batch, count), rank, world)
    chosen = torch.randperm(count, generator=generator)[: batch * steps(dataset, batch)].split(batch)
    if isinstance(dataset.train, Split):
        batches = _from_memory(dataset.train, dataset.flip, chosen, part, generator, device)
    else:
        batches = _from_files(dataset.train, chosen, part, generator, device)
    for images, labels in batches:
        yield normalise(images, dataset.mean, dataset.std), labels


def test_batches(dataset: Dataset, batch: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """The test images in order, all of them: float32 [N, C, H, W], normalised, and labels [N]."""
    test = dataset.test
    pairs: Iterable[tuple[Tensor, Tensor]]
    if isinstance(test, Split):
        pairs = zip(test.images.split(batch), test.labels.split(batch), strict=True)
    else:
        everything = [(i, None) for i in range(len(test.labels))]
        pairs = stream(test, [everything[i : i + batch] for i in range(0, len(everything), batch)])
    for images, labels in pairs:
        yield normalise(images.to(device), dataset.mean, dataset.std), labels.to(device)


Chosen = tuple[Tensor, ...]  # the indices of the images of each batch


def _from_memory(
    split: Split, flip: bool, chosen: Chosen, part: slice, generator: torch.Generator, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    images, labels = split.images.to(device), split.labels.to(device)
    padding = split.shape[-1] // (8 if flip else 16)  # 4 of 32 as usual for photos, 2 of 32 for digits
    for indices in chosen:
        moves = draw(len(indices), padding, flip, generator)
        offsets, mirrored = (None if move is None else move[part].to(device) for move in moves)
        mine = indices[part].to(device)
        yield augment(images[mine], padding, offsets, mirrored), labels[mine]


def _from_files(
    files: Files, chosen: Chosen, part: slice, generator: torch.Generator, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    seeds = [torch.randint(2**62, (len(indices),), generator=generator) for indices in chosen]
    moved = [list(zip(i[part].tolist(), s[part].tolist(), strict=True)) for i, s in zip(chosen, seeds, strict=True)]
    return stream(files, moved, device)


def share(count: int, rank: int, world: int) -> slice:
    """The part of a batch of ``count`` that process ``rank`` of ``world`` takes. Raises InputError if uneven."""
    if count % world:
        raise InputError(f"--batch: {count} images a step cannot be shared by {world} processes; give a multiple")
    part = count // world
    return slice(rank * part, (rank + 1) * part)


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 [N, C, H, W] to float32 (x / 255 - mean) / std, with one mean and one std a channel."""
    shape = (1, -1, 1, 1)
    offset = torch.tensor(mean, dtype=torch.float32, device=images.device).view(shape)
    scale = torch.tensor(std, dtype=torch.float32, device=images.device).view(shape)
    return (images.float() / 255 - offset) / scale


def draw(count: int, padding: int, flip: bool, generator: torch.Generator) -> tuple[Tensor | None, Tensor | None]:
    """What `augment` does to each of ``count`` images: row and column offsets, int64 [N, 2] of 0 to 2 ``padding``, then
    whether it is mirrored, bool [N]; None where there is nothing to draw."""
    offsets = torch.randint(0, 2 * padding + 1, (count, 2), generator=generator) if padding else None
    mirrored = torch.randint(0, 2, (count,), generator=generator).bool() if flip else None
    return offsets, mirrored


def augment(images: Tensor, padding: int, offsets: Tensor | None, mirrored: Tensor | None) -> Tensor:
    """Each image [C, H, W] of a batch, cropped at its offsets from itself with ``padding`` black pixels around, then
    mirrored where it says so (the augmentation of He et al. 2016, section 4.2). The moves are those of `draw`."""
    count, _, height, width = images.shape
    if offsets is not None:
        windows = F.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)  # a view: [N, C, y, x, H, W]
        images = windows[torch.arange(count, device=images.device), :, offsets[:, 0], offsets[:, 1]]
    if mirrored is not None:
        images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)
    return images
