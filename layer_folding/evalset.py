"""Images, and labels where there are some, in one .npz, for devices and stages that have no data set of their own."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .errors import InputError

_NAMES = ("images", "labels", "mean", "std")
SMALLEST_STD = 1e-3  # a quarter of a level of 8 bits; below, images become infinite in half precision
_REMEDY = (
    "`layer-folding pretrain` writes eval.npz and calib.npz, with images uint8 [N,C,H,W], mean and std float32 [C], "
    "and labels int64 [N] where there are some"
)


@dataclass(frozen=True)
class EvalSet:
    """``images`` uint8 [N,C,H,W], ``labels`` int64 [N], ``mean`` and ``std`` float32 [C] of images scaled to 0..1.

    ``labels`` is None for images without labels.
    """

    images: np.ndarray
    labels: np.ndarray | None
    mean: np.ndarray
    std: np.ndarray

    def inputs(self, limit: int | None = None) -> np.ndarray:
        """What the network takes, `(images / 255 - mean) / std`: float32 [n,C,H,W].

        ``limit`` takes that many images, spread evenly over the set (which may be sorted by class).
        """
        return self._normalised(self.chosen(limit))

    def batch(self, start: int, count: int) -> np.ndarray:
        """``count`` images from ``start`` as `inputs` gives them; the last batch is filled up with the last image."""
        return self._normalised(np.minimum(np.arange(start, start + count), len(self.images) - 1))

    def batches(self, count: int) -> Iterator[np.ndarray]:
        """All images in order, ``count`` at a time, as `inputs` gives them; the last batch may be smaller."""
        for start in range(0, len(self.images), count):
            yield self.batch(start, min(count, len(self.images) - start))

    def chosen(self, limit: int | None = None) -> np.ndarray:
        """The numbers of the images that ``limit`` takes."""
        count = len(self.images) if limit is None else min(limit, len(self.images))
        return np.arange(count) * len(self.images) // count

    def require_shape(self, path: str | Path, shape: Sequence[int]) -> None:
        """Raise InputError, for the file ``path``, unless a network takes its images, of ``shape`` [C,H,W]."""
        if list(self.images.shape[1:]) != list(shape):
            raise InputError(f"{path}: images of {list(self.images.shape[1:])}, but the network takes {list(shape)}")

    def require(self, path: str | Path, shape: Sequence[int], classes: int) -> None:
        """Raise InputError, for the file ``path``, unless a network of images ``shape`` [C,H,W] can be tested on it."""
        self.require_shape(path, shape)
        if self.labels is not None and self.labels.max() >= classes:
            raise InputError(
                f"{path}: labels up to {self.labels.max()}, but the network has {classes} classes; give the "
                "images of its own data"
            )

    def known_labels(self, path: str | Path, remedy: str) -> np.ndarray:
        """The labels. Raises InputError, for the file ``path``, with the ``remedy`` where there are none."""
        if self.labels is None:
            raise InputError(f"{path}: has images without labels; {remedy}")
        return self.labels

    def _normalised(self, numbers: np.ndarray) -> np.ndarray:
        scaled = self.images[numbers].astype(np.float32) / np.float32(255)
        return (scaled - self.mean.reshape(-1, 1, 1)) / self.std.reshape(-1, 1, 1)


def read_evalset(path: str | Path) -> EvalSet:
    """Read ``path``; raises ``InputError`` that names what in it is missing or malformed. Nothing is unpickled."""
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; {_REMEDY}")
    try:
        with open(path, "rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("a single array, not an archive")
            arrays: dict[str, Any] = {"labels": None} | {name: archive[name] for name in _NAMES if name in archive}
            missing = [name for name in _NAMES if name not in arrays]
            if missing:
                raise ValueError(f"it has no {', '.join(missing)}")
    except Exception as error:  # numpy, zipfile, zlib and tokenize each raise their own for a damaged file
        raise InputError(f"{path}: not a readable .npz archive ({error}); {_REMEDY}") from error
    found = EvalSet(**arrays)
    wrong = next(_faults(found), None)
    if wrong:
        raise InputError(f"{path}: {wrong}; {_REMEDY}")
    return found


def _faults(found: EvalSet) -> Iterator[str]:
    images, labels, std = found.images, found.labels, found.std
    if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
        yield f"images are {images.dtype} {list(images.shape)}, expected uint8 [N,C,H,W]"
        return
    if labels is not None and (labels.dtype != np.int64 or labels.shape != images.shape[:1] or labels.min() < 0):
        yield f"labels are {labels.dtype} {list(labels.shape)}, expected {len(images)} classes >= 0 as int64"
    for name, values in (("mean", found.mean), ("std", std)):
        if values.dtype != np.float32 or values.shape != images.shape[1:2] or not np.isfinite(values).all():
            yield f"{name} is {values.dtype} {list(values.shape)}, expected {images.shape[1]} finite float32"
    if not (std >= np.float32(SMALLEST_STD)).all():
        yield f"std has values below {SMALLEST_STD}"
