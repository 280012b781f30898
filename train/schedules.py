"""How the learning rate goes over a stage, and how the gates of a plan open: functions of progress, 0 to 1."""

import math
from collections.abc import Callable

WARM_UP = 0.15  # of all steps; BatchNorm networks diverge at their best learning rate without one


def constant(progress: float) -> float:
    """1 all the way."""
    return 1.0


def step(progress: float) -> float:
    """A tenth after half of the stage, a hundredth after three quarters (He et al. 2016, section 4.2)."""
    return 0.1 ** ((progress >= 0.5) + (progress >= 0.75))


def cosine(progress: float) -> float:
    """Half a cosine from 1 to 0 (Loshchilov and Hutter 2017, without restarts)."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def one_cycle(progress: float) -> float:
    """Linear warm-up from almost 0, then half a cosine to 0 (Smith and Topin 2018)."""
    if progress < WARM_UP:
        return (progress + 1e-3) / (WARM_UP + 1e-3)
    return cosine((progress - WARM_UP) / (1 - WARM_UP))


SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": constant,
    "step": step,
    "cosine": cosine,
    "one-cycle": one_cycle,
}


def opening(progress: float) -> float:
    """How far the gates of a plan are open: half a cosine from 0 to 1 (deep training of VanillaNet, arXiv 2305.12972,
    section 3.2)."""
    return 1 - cosine(progress)
