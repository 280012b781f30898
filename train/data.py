"""Images, and what a network is to give for them: what ``--data`` names. `train.batches` makes batches of them."""

import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from layer_folding.errors import InputError
from layer_folding.files import atomic_path
from layer_folding.fold.fitting.imitation import Imitation

from .image_folder import decode_image_folder, has_classes, list_image_folder, list_unlabelled_folder
from .published import PUBLISHED, read_published
from .stream import Files, stream

NAMES = ("digits", *PUBLISHED)
RESIDENT_BYTES = 2 * 2**30  # folders up to here live in memory as uint8: all 32x32 sets, and 14,000 images of 224x224
EVAL_IMAGES = 2000  # of a test split that does not fit in memory: 300 MB at 224x224

CALIBRATION_IMAGES = 1024  # of the training split, at least; `fit` draws the same
MOST_CALIBRATION_IMAGES = 4096  # more make fits better, and take longer
CALIBRATION_BYTES = 2**29  # of what a layer gives for all of them; a fit holds a few such values
HELD_OUT_IMAGES = 4096  # of the training split, others: a loss of accuracy is then known to about half a point
HELD_OUT_BYTES = 2**27  # 900 images at 224x224

# The statistics that most public CIFAR and ImageNet weights were trained with; of gray images, any will do.
RGB_MEAN, RGB_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GRAY_MEAN, GRAY_STD = (0.5,), (0.5,)


@dataclass(frozen=True)
class Split:
    """Images, uint8 [N, C, size, size], and their classes, int64 [N]."""

    images: Tensor
    labels: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """[C, size, size] of an image."""
        return tuple(self.images.shape[1:])

    def to(self, device: torch.device) -> "Split":
        """The same on ``device``."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Dataset:
    """Two splits, the class names by label, the normalisation per channel (of x / 255), and whether mirror images
    are images of the same class.

    Without ``classes``, the labels of the splits mean nothing. Then ``imitated`` has the outputs that a network is to
    give; None until `train.labelling` has seen the original network. ``meaning`` is what accuracy is, as a phrase.
    """

    name: str
    classes: tuple[str, ...]
    train: Split | Files
    test: Split | Files
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool
    imitated: Imitation | None = None
    meaning: str = "accuracy"

    @property
    def shape(self) -> tuple[int, ...]:
        """[C, size, size] of an image."""
        return self.test.shape

    @property
    def guessing(self) -> float:
        """The task's part of the loss for a network that knows nothing of these images."""
        return math.log(len(self.classes)) if self.imitated is None else self.imitated.guessing

    def to(self, device: torch.device) -> "Dataset":
        """The same data set; what of it is in memory is on ``device``."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))


def load(spec: str, size: int = 32) -> Dataset:
    """The data set ``spec`` at ``size`` x ``size`` pixels.

    "digits": the 1797 handwritten digits of scikit-learn, one channel; 1437 to train, 360 to test. "mnist", "cifar10"
    and "cifar100" are downloaded once. Otherwise a folder with ``train/CLASS/*.jpg`` and ``test/CLASS/*.jpg`` or
    ``val/CLASS/*.jpg`` (any format that Pillow reads), as RGB: up to RESIDENT_BYTES decoded once, and cached under
    ``$XDG_CACHE_HOME/layer-folding``; above, from the files as they are needed. A folder called digits is ``./digits``.
    A folder without train, test and val has images without labels, in any folders: the data set has no classes then.
    Raises InputError where ``spec`` is none of these, or the folder is not as it should be.
    """
    if spec == "digits":
        return _digits(size)
    if spec in PUBLISHED:
        return _published(spec, size)
    root = folder_of(spec)
    if not os.path.exists(root):
        raise InputError(
            f"data {spec!r}: no such folder; give one with train/CLASS and test/CLASS, or a name: {', '.join(NAMES)}"
        )
    return _folder(root, size)


def has_labels(spec: str) -> bool:
    """Whether the images of the data set ``spec`` have labels. Raises InputError as `folder_of`."""
    return spec in NAMES or has_classes(folder_of(spec))


def folder_of(spec: str) -> Path:
    """The path that ``spec`` means, with ~ for a home folder. Raises InputError for the home of nobody."""
    try:
        return Path(spec).expanduser()
    except RuntimeError as error:
        raise InputError(f"data {spec!r}: there is no such user; give the path of a folder") from error


def normalised(dataset: Dataset, mean: Sequence[float] | None, std: Sequence[float] | None) -> Dataset:
    """``dataset`` with another normalisation, one number a channel; None keeps what it has. Raises InputError."""
    for option, values in (("--mean", mean), ("--std", std)):
        if values is not None and len(values) != dataset.shape[0]:
            raise InputError(
                f"{option}: {len(values)} numbers for images of {dataset.shape[0]} channels; give one each"
            )
    return replace(dataset, mean=tuple(mean or dataset.mean), std=tuple(std or dataset.std))


def save_eval_set(path: str | Path, dataset: Dataset) -> None:
    """Write the test split for evaluation without torch: an ``.npz`` (no pickle) of images uint8 [N, C, H, W],
    labels int64 [N] where the data set has classes, mean and std float32 [C]. Of a split that is not in memory,
    EVAL_IMAGES spread evenly over it."""
    total = len(dataset.test.labels)
    count = total if isinstance(dataset.test, Split) else min(EVAL_IMAGES, total)
    if count < total:
        said = f"{path}: holds {count} of the {total} test images; later stages give the accuracy on these"
        print(said, file=sys.stderr)
    _save(path, dataset, _some(dataset.test, torch.arange(count) * total // count))


def calibration_count(dataset: Dataset, largest: int) -> int:
    """How many images the calibration set has: a tenth of the training split, within limits.

    ``largest`` is what the largest value in the network takes for one image, in bytes.
    """
    most = min(MOST_CALIBRATION_IMAGES, CALIBRATION_BYTES // largest)
    return max(CALIBRATION_IMAGES, min(most, len(dataset.train.labels) // 10))


def save_calibration_set(path: str | Path, dataset: Dataset, count: int = CALIBRATION_IMAGES, seed: int = 0) -> None:
    """Write `calibration_images` as `save_eval_set` writes the test split."""
    _save(path, dataset, calibration_images(dataset, count, seed))


def save_held_out_set(path: str | Path, dataset: Dataset, fitted: int = CALIBRATION_IMAGES, seed: int = 0) -> None:
    """Write training images that the calibration set of ``fitted`` images and that ``seed`` has not: what a plan loses
    is measured on them.

    At most HELD_OUT_IMAGES, and HELD_OUT_BYTES. Nothing is written where the calibration set has all images.
    """
    count = min(HELD_OUT_IMAGES, HELD_OUT_BYTES // math.prod(dataset.shape))
    if len(dataset.train.labels) > fitted:
        _save(path, dataset, calibration_images(dataset, count, seed, skip=fitted))


def calibration_images(dataset: Dataset, count: int, seed: int, skip: int = 0) -> Split:
    """Up to ``count`` training images as they are, drawn with ``seed``, as many of each class; the ``skip`` that would
    come first are left out."""
    shuffled = torch.randperm(len(dataset.train.labels), generator=torch.Generator().manual_seed(seed))
    labels = dataset.train.labels.cpu()[shuffled]
    turn = torch.zeros_like(labels)  # which of its class an image is: the first of every class come first, then ...
    for label in range(len(dataset.classes)):
        turn[labels == label] = torch.arange(int((labels == label).sum()))
    return _some(dataset.train, shuffled[turn.argsort(stable=True)[skip : skip + count]])


def _save(path: str | Path, dataset: Dataset, split: Split) -> None:
    labels: dict[str, Any] = {"labels": split.labels.cpu().numpy()} if dataset.classes else {}
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(
            file,
            images=split.images.cpu().numpy(),
            mean=np.array(dataset.mean, np.float32),
            std=np.array(dataset.std, np.float32),
            **labels,
        )


def _some(split: Split | Files, index: Tensor) -> Split:
    """The images of ``split`` with the numbers ``index``, in that order."""
    if isinstance(split, Split):
        where = index.to(split.images.device)
        return Split(split.images[where], split.labels[where])
    images, labels = zip(*stream(split, [[(i, None) for i in part.tolist()] for part in index.split(50)]), strict=True)
    return Split(torch.cat(images), torch.cat(labels))


def _digits(size: int) -> Dataset:
    from sklearn.datasets import load_digits  # slow to import, and only this needs it
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    pixels = torch.from_numpy(digits.images).float().unsqueeze(1)  # [1797, 1, 8, 8], 0 to 16
    images = _resized(pixels * (255 / 16), size)
    labels = torch.from_numpy(digits.target).long()
    indices = train_test_split(np.arange(len(labels)), test_size=360, stratify=digits.target, random_state=0)
    train, test = (Split(images[index], labels[index]) for index in map(torch.from_numpy, indices))
    return Dataset("digits", tuple(map(str, digits.target_names)), train, test, GRAY_MEAN, GRAY_STD, flip=False)


def _published(name: str, size: int) -> Dataset:
    classes, splits = read_published(name)
    train, test = (Split(_resized(images, size), labels) for images, labels in (splits["train"], splits["test"]))
    if train.shape[0] == 1:
        return Dataset(name, classes, train, test, GRAY_MEAN, GRAY_STD, flip=False)
    return Dataset(name, classes, train, test, RGB_MEAN, RGB_STD, flip=True)


def _folder(root: Path, size: int) -> Dataset:
    classes: tuple[str, ...] = ()
    if has_classes(root) or not root.is_dir():
        classes, listing = list_image_folder(root)
    else:
        listing = list_unlabelled_folder(root)
    count = sum(map(len, listing.values()))
    if count * 3 * size * size <= RESIDENT_BYTES:
        tensors = decode_image_folder(root, size, classes, listing)
        splits: dict[str, Split | Files] = {
            split: Split(tensors[f"{split}.images"], tensors[f"{split}.labels"]) for split in listing
        }
    else:
        print(
            f"data {root}: {count} images of {size}x{size} are {count * 3 * size * size / 2**30:.1f} GB; read from the "
            "files as they are needed",
            file=sys.stderr,
        )
        splits = {
            split: Files(
                tuple(root / entry.name for entry in entries), torch.tensor([entry.label for entry in entries]), size
            )
            for split, entries in listing.items()
        }
    return Dataset(root.resolve().name, classes, splits["train"], splits["test"], RGB_MEAN, RGB_STD, flip=True)


def _resized(images: Tensor, size: int) -> Tensor:
    """[N, C, H, W] of 0 to 255 as uint8 [N, C, size, size]."""
    if images.shape[-2:] == (size, size):
        return images.round().to(torch.uint8)
    pixels = F.interpolate(images.float(), size=(size, size), mode="bilinear", align_corners=False, antialias=True)
    return pixels.round().clamp(0, 255).to(torch.uint8)
