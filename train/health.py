"""Whether a run still learns: a loss that is no number, or no better than guessing after it has been, ends it."""

import math
from collections.abc import Mapping

from fold.errors import CheckError
from train.hyperparameters import Hyperparameters

LEARNED = 0.75  # of the loss of guessing; below that, a network has learned something


def check(
    loss: float,
    task: float,
    best: float,
    classes: int,
    h: Hyperparameters,
    when: str,
    alphas: Mapping[str, float],
) -> None:
    """Raise CheckError if ``loss`` is not finite, or the ``task``'s part of it collapsed.

    Guessing among ``classes`` has a cross-entropy of their logarithm. Above that although it was clearly below
    (``best``, the lowest before) is a collapse, from which high learning rates and penalties do not come back.
    The message says ``when``, and the values ``alphas`` of the gates when all was well.
    """
    guessing = math.log(classes)
    if not math.isfinite(loss):
        what = f"the loss is {loss}"
    elif best < LEARNED * guessing < guessing < task:
        what = f"the network collapsed: its loss went from {best:.2f} to {task:.2f}, and guessing has {guessing:.2f}"
    else:
        return
    remedy = f"a lower --lr (was {h.lr:g})" + (f" or --lambda (was {h.penalty:g})" if alphas and not h.remove else "")
    state = "; gates before: " + ", ".join(f"{name} {alpha:.2f}" for name, alpha in alphas.items()) if alphas else ""
    raise CheckError(
        f"{when}: {what}{state}; give {remedy}, in another run folder (RUN=DIR); the last good epoch's state is kept"
    )
