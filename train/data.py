"""Labelled images as uint8 tensors that fit in memory, and batched augmentation on whatever device they are on."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fold.errors import InputError
from fold.files import atomic_path
from train.image_folder import read_image_folder

# The statistics that public CIFAR and ImageNet weights were trained with.
RGB_MEAN, RGB_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Split:
    """Images, uint8 [N, C, H, W], and their classes, int64 [N]."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Dataset:
    """Two splits, the class names by label, the normalisation per channel (of x / 255), and whether mirror images
    are images of the same class."""

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool


def load(spec: str, size: int = 32) -> Dataset:
    """The data set ``spec`` at ``size`` x ``size`` pixels.

    "digits": the 1797 handwritten digits of scikit-learn, resized, one channel; 1437 to train, 360 to test. Otherwise a
    folder with ``train/CLASS/*.jpg`` and ``test/CLASS/*.jpg`` (any format that Pillow reads), as RGB; what it holds is
    cached under ``$XDG_CACHE_HOME/layer-folding``. A folder called digits is ``./digits``.
    Raises InputError where ``spec`` is neither, or the folder is not as it should be.
    """
    if spec == "digits":
        return _digits(size)
    root = Path(spec).expanduser()
    if not os.path.exists(root):
        raise InputError(f"data {spec!r}: no such folder; give 'digits' or a folder with train/CLASS and test/CLASS")
    folder = read_image_folder(root, size)
    train = Split(folder.tensors["train.images"], folder.tensors["train.labels"])
    test = Split(folder.tensors["test.images"], folder.tensors["test.labels"])
    return Dataset(root.resolve().name, folder.classes, train, test, RGB_MEAN, RGB_STD, flip=True)


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 [N, C, H, W] to float32 (x / 255 - mean) / std, with one mean and one std a channel."""
    shape = (1, -1, 1, 1)
    offset = torch.tensor(mean, dtype=torch.float32, device=images.device).view(shape)
    scale = torch.tensor(std, dtype=torch.float32, device=images.device).view(shape)
    return (images.float() / 255 - offset) / scale


def augment(images: Tensor, generator: torch.Generator, padding: int, flip: bool) -> Tensor:
    """Each image [C, H, W] of a batch, cropped at random from itself with ``padding`` black pixels around, and with
    ``flip`` mirrored with probability 1/2 (the augmentation of He et al. 2016, section 4.2).

    Draws from ``generator`` the row and column offsets, [N, 2], then the flips, [N]; it may live on another device.
    """
    count, _, height, width = images.shape
    device = images.device
    if padding:
        offsets = torch.randint(0, 2 * padding + 1, (count, 2), generator=generator, device=generator.device).to(device)
        windows = F.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)  # a view: [N, C, y, x, H, W]
        images = windows[torch.arange(count, device=device), :, offsets[:, 0], offsets[:, 1]]
    if flip:
        mirrored = torch.randint(0, 2, (count, 1, 1, 1), generator=generator, device=generator.device).to(device)
        images = torch.where(mirrored.bool(), images.flip(3), images)
    return images


def batches(split: Split, batch_size: int, generator: torch.Generator | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of images and labels. With a generator, shuffled by it and, for training, without a last short batch
    (BatchNorm would see few images), unless that is the only one. Without, in order and complete.
    """
    count = len(split.labels)
    if generator is None:
        for start in range(0, count, batch_size):
            yield split.images[start : start + batch_size], split.labels[start : start + batch_size]
        return
    order = torch.randperm(count, generator=generator, device=generator.device).to(split.labels.device)
    for start in range(0, max(count - batch_size, 0) + 1, batch_size):
        index = order[start : start + batch_size]
        yield split.images[index], split.labels[index]


def save_eval_set(path: str | Path, dataset: Dataset) -> None:
    """Write the test split for evaluation without torch: an ``.npz`` (no pickle) of images uint8 [N, C, H, W],
    labels int64 [N], mean and std float32 [C]."""
    _save(path, dataset, dataset.test)


def save_calibration_set(path: str | Path, dataset: Dataset, count: int = 512, seed: int = 0) -> None:
    """Write up to ``count`` training images, drawn with ``seed``, as many of each class, as `save_eval_set` does."""
    shuffled = torch.randperm(len(dataset.train.labels), generator=torch.Generator().manual_seed(seed))
    labels = dataset.train.labels.cpu()[shuffled]
    # the first of every class, then the second of every class, ...
    turns = torch.stack([(labels == label).cumsum(0) * (labels == label) for label in range(len(dataset.classes))]).sum(
        0
    )
    index = shuffled[turns.argsort(stable=True)[:count]]
    _save(path, dataset, Split(dataset.train.images.cpu()[index], dataset.train.labels.cpu()[index]))


def _save(path: str | Path, dataset: Dataset, split: Split) -> None:
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(
            file,
            images=split.images.cpu().numpy(),
            labels=split.labels.cpu().numpy(),
            mean=np.array(dataset.mean, np.float32),
            std=np.array(dataset.std, np.float32),
        )


def _digits(size: int) -> Dataset:
    from sklearn.datasets import load_digits  # slow to import, and only this needs it
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    pixels = torch.from_numpy(digits.images).float().unsqueeze(1)  # [1797, 1, 8, 8], 0 to 16
    pixels = F.interpolate(pixels, size=(size, size), mode="bilinear", align_corners=False)
    images = (pixels * (255 / 16)).round().clamp(0, 255).to(torch.uint8)
    labels = torch.from_numpy(digits.target).long()
    indices = train_test_split(np.arange(len(labels)), test_size=360, stratify=digits.target, random_state=0)
    train, test = (Split(images[index], labels[index]) for index in map(torch.from_numpy, indices))
    return Dataset("digits", tuple(map(str, digits.target_names)), train, test, (0.5,), (0.5,), flip=False)
