"""The evaluation images beside a network, and its accuracy in the runtime that is measured."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trt_bench.errors import InputError
from trt_bench.runtimes import Loaded


@dataclass(frozen=True)
class EvalSet:
    """Images as they are stored; ``normalise`` makes them a network's input."""

    path: str
    images: np.ndarray  # uint8 [N, C, H, W]
    labels: np.ndarray  # int64 [N]
    mean: np.ndarray  # float32 [C]
    std: np.ndarray  # float32 [C]


def load(path: str | Path) -> EvalSet:
    """Read ``images``, ``labels``, ``mean`` and ``std`` of an .npz file. Raises InputError; nothing is unpickled."""
    names = ("images", "labels", "mean", "std")
    if not Path(path).is_file():
        raise InputError(f"--data {path}: no such file; `python -m train pretrain` writes eval.npz")
    try:
        with open(path, "rb") as file:
            archive = np.load(file, allow_pickle=False)
            images, labels, mean, std = (archive[name] for name in names)
    except Exception as error:  # numpy, zipfile and zlib each raise their own for a damaged file
        raise InputError(
            f"--data {path}: not an .npz file with {', '.join(names)} ({error}); "
            "`python -m train pretrain` writes eval.npz"
        ) from error
    wrong = _wrong(images, labels, mean, std)
    if wrong:
        raise InputError(f"--data {path}: {wrong}; `python -m train pretrain` writes eval.npz")
    return EvalSet(str(path), images, labels, mean, std)


def _wrong(images: np.ndarray, labels: np.ndarray, mean: np.ndarray, std: np.ndarray) -> str | None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.size == 0:
        return f"images are {images.dtype} {list(images.shape)}, expected uint8 [N, C, H, W]"
    if labels.dtype != np.int64 or labels.shape != images.shape[:1] or labels.min() < 0:
        return f"labels are {labels.dtype} {list(labels.shape)}, expected {len(images)} classes >= 0 as int64"
    for name, values in (("mean", mean), ("std", std)):
        if values.dtype != np.float32 or values.shape != images.shape[1:2] or not np.isfinite(values).all():
            return f"{name} is {values.dtype} {list(values.shape)}, expected {images.shape[1]} finite float32"
    return None if (std > 0).all() else "std has values that are not positive"


def normalise(data: EvalSet, start: int, count: int) -> np.ndarray:
    """``count`` images from ``start`` as float32 input; the last batch is filled up with its last image."""
    indices = np.minimum(np.arange(start, start + count), len(data.images) - 1)
    scaled = data.images[indices].astype(np.float32) / np.float32(255)
    return (scaled - data.mean[:, None, None]) / data.std[:, None, None]


def accuracy(model: Loaded, data: EvalSet, path: str, progress: Callable[[str], None] = lambda text: None) -> float:
    """Fraction of images that the network at ``path`` puts in their class. Raises InputError if they do not fit."""
    if model.input_shape[1:] != data.images.shape[1:]:
        raise InputError(
            f"--data {data.path}: images are {list(data.images.shape[1:])}, but {path} takes "
            f"{list(model.input_shape[1:])}; give the eval.npz of the same run"
        )
    right = 0
    for start in range(0, len(data.images), model.eval_batch):
        scores = model.infer(normalise(data, start, model.eval_batch))
        labels = data.labels[start : start + model.eval_batch]
        if scores.ndim != 2 or len(scores) != model.eval_batch or scores.shape[1] <= labels.max():
            raise InputError(
                f"--data {data.path}: has class {labels.max()}, but the output of {path} is {list(scores.shape)}; "
                "give a classifier and the eval.npz of the same run"
            )
        right += int((scores[: len(labels)].argmax(axis=1) == labels).sum())
        progress(f"accuracy of {path}: {start + len(labels)}/{len(data.images)} images")
    progress("")
    return right / len(data.images)
