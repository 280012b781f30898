"""The accuracy of a network in the runtime that is measured."""

from collections.abc import Callable

import numpy as np

from layer_folding.errors import CheckError, InputError
from layer_folding.evalset import EvalSet

from .runtimes import Loaded


def accuracy(model: Loaded, data: EvalSet, path: str, progress: Callable[[str], None] = lambda text: None) -> float:
    """Fraction of images that the network at ``path`` puts in their class. Raises InputError if they do not fit,
    CheckError where a score is NaN or infinite."""
    if model.input_shape[1:] != data.images.shape[1:]:
        raise InputError(
            f"--data: images are {list(data.images.shape[1:])}, but {path} takes "
            f"{list(model.input_shape[1:])}; give the eval.npz of the same run"
        )
    classes, right = data.known_labels("--data", "leave it out"), 0
    for start in range(0, len(data.images), model.eval_batch):
        scores = model.infer(data.batch(start, model.eval_batch))
        labels = classes[start : start + model.eval_batch]
        if scores.ndim != 2 or len(scores) != model.eval_batch or scores.shape[1] <= labels.max():
            raise InputError(
                f"--data: has class {labels.max()}, but the output of {path} is {list(scores.shape)}; "
                "give a classifier and the eval.npz of the same run"
            )
        if not np.isfinite(scores).all():
            raise CheckError(f"{path}: gives NaN or infinity for images of --data; export it in a higher precision")
        right += int((scores[: len(labels)].argmax(axis=1) == labels).sum())
        progress(f"accuracy of {path}: {start + len(labels)}/{len(data.images)} images")
    progress("")
    return right / len(data.images)
