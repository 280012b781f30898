"""Images and labels in one .npz, for devices and stages that have no data set of their own."""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fold.errors import InputError


@dataclass(frozen=True)
class EvalSet:
    """``images`` uint8 [N,C,H,W], ``labels`` int64 [N], ``mean`` and ``std`` float32 [C] of images scaled to 0..1."""

    images: np.ndarray
    labels: np.ndarray
    mean: np.ndarray
    std: np.ndarray

    def inputs(self, limit: int | None = None) -> np.ndarray:
        """What the network takes, `(images / 255 - mean) / std`: float32 [n,C,H,W].

        ``limit`` takes that many images, spread evenly over the set (which may be sorted by class).
        """
        scaled = self.images[self.chosen(limit)].astype(np.float32) / 255
        return (scaled - self.mean.reshape(-1, 1, 1)) / self.std.reshape(-1, 1, 1)

    def chosen(self, limit: int | None = None) -> np.ndarray:
        """The numbers of the images that ``limit`` takes."""
        count = len(self.images) if limit is None else min(limit, len(self.images))
        return np.arange(count) * len(self.images) // count


_LAYOUT = {"images": (np.uint8, 4), "labels": (np.int64, 1), "mean": (np.float32, 1), "std": (np.float32, 1)}


def read_evalset(path: str | Path) -> EvalSet:
    """Read ``path``; raises ``InputError`` that names what in it is missing or malformed. Nothing is unpickled."""
    try:
        with open(path, "rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise InputError(f"{path}: a single array, not an .npz archive; {_remedy()}")
            missing = [name for name in _LAYOUT if name not in archive]
            if missing:
                raise InputError(f"{path}: has no {', '.join(missing)}; {_remedy()}")
            arrays = {name: archive[name] for name in _LAYOUT}
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; `python -m train pretrain` writes eval.npz and calib.npz") from error
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a readable .npz archive ({error}); {_remedy()}") from error
    for name, (dtype, rank) in _LAYOUT.items():
        array = arrays[name]
        if array.dtype != dtype or array.ndim != rank:
            raise InputError(
                f"{path}: {name} is {array.dtype} with {array.ndim} axes instead of {np.dtype(dtype)} with {rank}; "
                f"{_remedy()}"
            )
    result = EvalSet(**arrays)
    count, channels = result.images.shape[:2]
    if not result.images.size or len(result.labels) != count:
        raise InputError(f"{path}: {count} images and {len(result.labels)} labels; {_remedy()}")
    if len(result.mean) != channels or len(result.std) != channels:
        raise InputError(f"{path}: images have {channels} channels, mean and std do not; {_remedy()}")
    if not np.isfinite(result.mean).all() or not (result.std > 0).all() or not np.isfinite(result.std).all():
        raise InputError(f"{path}: mean must be finite and std positive; {_remedy()}")
    return result


def _remedy() -> str:
    return "write it with images uint8 [N,C,H,W], labels int64 [N], mean and std float32 [C]"
