"""Whether a network knows anything: a loss that is no number, or no better than guessing after it has been, ends a run;
weights that are no better than guessing get a note."""

import math
from collections.abc import Mapping, Sequence

from layer_folding.errors import CheckError
from layer_folding.fold.gating import THRESHOLD

from .hyperparameters import Hyperparameters
from .metrics import Row
from .pressure import SETTLED

_FALLEN = 0.5, 0.05  # a gate from above to below
_PATIENCE = 3  # epochs
_EXPLODED = 1000  # times the loss of guessing
LEARNED = 0.75  # of the loss of guessing; below that, a network has learned something


def check(
    loss: float,
    task: float,
    best: float,
    guessing: float,
    h: Hyperparameters,
    when: str,
    alphas: Mapping[str, float],
) -> None:
    """Raise CheckError if ``loss`` is not finite, or the ``task``'s part of it collapsed or exploded.

    A network that knows nothing has the loss ``guessing``, such as the logarithm of the number of classes. Above that
    although it was clearly below (``best``, the lowest before) is a collapse, from which high learning rates and
    penalties do not come back. The message says ``when``, and the values ``alphas`` of the gates when all was well.
    """
    if not math.isfinite(loss):
        what = f"the loss is {loss}"
    elif best < LEARNED * guessing < guessing < task:
        what = f"the network collapsed: its loss went from {best:.2f} to {task:.2f}, and guessing has {guessing:.2f}"
    elif task > _EXPLODED * guessing > 0:
        what = f"the network exploded: its loss is {task:.3g}, and guessing has {guessing:.2f}"
    else:
        return
    remedy = f"a lower --lr (was {h.lr:g})" + (f" or --lambda (was {h.penalty:g})" if alphas and not h.remove else "")
    state = "; gates before: " + ", ".join(f"{name} {alpha:.2f}" for name, alpha in alphas.items()) if alphas else ""
    raise CheckError(
        f"{when}: {what}{state}; give {remedy}, in another run folder (RUN=DIR); the last good epoch's state is kept"
    )


def guesses(accuracy: float, images: int, classes: int) -> bool:
    """Whether ``accuracy`` on ``images`` is not clearly above that of guessing among ``classes``: by 3 deviations."""
    chance = 1 / classes
    return accuracy <= chance + 3 * math.sqrt(chance * (1 - chance) / images)


def gate_warnings(rows: Sequence[Row], gates: Sequence[str], h: Hyperparameters) -> list[str]:
    """What is wrong with ``gates`` in the last of ``rows``, which are an epoch each, and what helps."""
    found = []
    if 1 < len(rows) <= SETTLED[0] * h.epochs:  # later, gates are closed on purpose
        before, now = rows[-2:]
        high, low = _FALLEN
        for name in gates:
            if float(before[name]) > high and float(now[name]) < low:
                found.append(
                    f"gate {name} fell from {before[name]:.2f} to {now[name]:.2f}: the loss wants that activation; "
                    f"a lower --gate-lr (was {h.gate_lr:g}) lets the network get used to its absence"
                )
    recent = rows[-_PATIENCE:]
    shut = all(float(row[name]) < THRESHOLD for row in recent for name in gates)
    if len(recent) == _PATIENCE and len(rows) % _PATIENCE == 0 and shut:
        widest = max(gates, key=lambda name: float(rows[-1][name]))
        found.append(
            f"no gate opened in {_PATIENCE} epochs, and the widest, {widest}, is at {rows[-1][widest]:.2f} of "
            f"{THRESHOLD:g}: give a larger --lambda (was {h.penalty:g}), or --remove-count"
        )
    return found
