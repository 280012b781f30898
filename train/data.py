"""Labelled images as uint8 tensors that fit in memory: what ``--data`` names. `train.batches` makes batches of them."""

import os
from dataclasses import dataclass, replace
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

    @property
    def padding(self) -> int:
        """Pixels by which training images are moved at most: 4 of 32 as usual for photos, 2 of 32 for digits."""
        return self.train.images.shape[-1] // (8 if self.flip else 16)

    def to(self, device: torch.device) -> "Dataset":
        """The same data set, its images and labels on ``device``."""
        train, test = (Split(split.images.to(device), split.labels.to(device)) for split in (self.train, self.test))
        return replace(self, train=train, test=test)


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


def save_eval_set(path: str | Path, dataset: Dataset) -> None:
    """Write the test split for evaluation without torch: an ``.npz`` (no pickle) of images uint8 [N, C, H, W],
    labels int64 [N], mean and std float32 [C]."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(
            file,
            images=dataset.test.images.cpu().numpy(),
            labels=dataset.test.labels.cpu().numpy(),
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
