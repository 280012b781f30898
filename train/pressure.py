"""How hard gates are pressed to open, over a stage of training, and that those that stay half open are closed in it."""

from torch import nn

from layer_folding.fold.gating import THRESHOLD, close_undecided, gates, which_open

_FIRST = 1 / 16  # of lambda
_DOUBLED = 0.05  # of the stage: what is left of it then is for the network to get used to its gates
SETTLED = 0.6, 0.9  # of the stage


def pressure(model: nn.Module, count: int, progress: float) -> float:
    """The factor of lambda when ``progress`` of the stage is done, 0 to 1.

    1, or with a ``count`` of gates to open a factor that doubles until so many are open, and is 0 from then on, as in
    Selective Network Linearization (Cho et al., ICML 2022, arXiv 2202.02340).
    """
    if not count:
        return 1.0
    return 0.0 if _opened(model) >= count else _FIRST * 2 ** (progress / _DOUBLED)


def settle(model: nn.Module, count: int, progress: float) -> None:
    """Close the gates of ``model`` that have not opened when more than half of the stage is done, bit by bit.

    So the network gets used to what hardening makes of it, and hardening changes nothing any more. With a ``count``,
    gates are closed only when so many are open.
    """
    begin, end = SETTLED
    if progress > begin and (not count or _opened(model) >= count):
        close_undecided(model, THRESHOLD * max(0.0, (end - progress) / (end - begin)))


def _opened(model: nn.Module) -> int:
    return sum(which_open(list(gates(model).values())))
