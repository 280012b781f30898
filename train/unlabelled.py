"""Images of any folder, without labels, as a network takes them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL.Image import Resampling
from torch import Tensor

from layer_folding.errors import InputError

from .image_folder import list_images
from .images import read_rgb


def read_images(
    folder: Path, size: Sequence[int], mean: Sequence[float], std: Sequence[float], *, count: int, seed: int = 0
) -> Tensor:
    """At most ``count`` of the images in ``folder`` and the folders in it, drawn by ``seed``, `[N, 3, height, width]`.

    Each is resized to ``size`` (height, width) without keeping its aspect ratio, and normalised by ``mean`` and ``std``
    of each channel, for values from 0 to 1. Raises InputError for a folder without images, and as
    `train.image_folder.list_images` and `train.images.read_rgb` do.
    """
    if not folder.is_dir():
        raise InputError(f"--images {folder}: is not a folder; give one with image files, in any folders")
    paths = [folder / entry.name for entry in list_images(folder)]
    if not paths:
        raise InputError(f"--images {folder}: has no image files; give a folder with some hundred images")
    generator = torch.Generator().manual_seed(seed)
    drawn = [paths[i] for i in sorted(torch.randperm(len(paths), generator=generator)[:count].tolist())]
    height, width = size
    pixels = [np.asarray(read_rgb(path).resize((width, height), Resampling.BILINEAR)) for path in drawn]
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
    return (images - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
