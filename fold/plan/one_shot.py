"""What best plans lose, carried out by fits: all changes together, where an importance is of one change alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor, nn

from layer_folding.plans import Plan, PlanPoint

from ..fitting.network_fit import fit

MEASURED = 7  # plans, the chosen one included


def spread(times: Sequence[float], chosen: int) -> list[int]:
    """The numbers of at most `MEASURED` plans with ``times`` (ms) from the fastest plan to the original network.

    ``chosen`` is the number of a plan that is to be among them. The last plan is the original network, which is not.
    """
    wanted = np.linspace(times[0], times[-1], MEASURED)[:-1]
    nearest = {int(np.abs(np.array(times) - time).argmin()) for time in wanted}
    return sorted((nearest | {chosen}) - {len(times) - 1})


def carried_out(
    model: nn.Module, images: Tensor, plan: Plan, point: PlanPoint, progress: Callable[[str], None]
) -> PlanPoint:
    """``point`` with what ``plan`` loses when it is carried out by least squares, on ``images`` that are held out.

    Raises InputError and CheckError as `lf.fit` does, such as where ``plan`` adds activations.
    """
    result = fit(model, images, plan, tuned=False, progress=progress)
    return replace(point, divergence=result.divergence, agreement=result.agreement)
