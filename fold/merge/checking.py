"""The self-check: what was merged against what it replaces, in float64, with random statistics too."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from layer_folding.errors import CheckError

from ..algebra.affine_conv import AffineConv
from ..algebra.layers import BATCH_NORMS
from ..graph.comparing import is_finite, relative
from ..graph.nodes import evaluate, module_of, target_of
from ..regions.exact_run import run_region
from ..regions.finding import Region

TOLERANCE = 1e-9  # of the largest value, in float64


def compose_checked(region: Region, compose: Callable[[Region], AffineConv], x: Tensor) -> tuple[AffineConv, float]:
    """``compose(region)``, and its relative error as the value of ``region`` where the anchor is ``x`` (float64).

    Where the region has BatchNorms, it is composed with random statistics first, and the larger error counts.
    Raises CheckError above TOLERANCE.
    """
    error = 0.0
    norms = [module for module in map(module_of, region.nodes) if isinstance(module, BATCH_NORMS)]
    if norms:
        with _random_statistics(norms):
            error = _error(region, compose(region), x)
    value = compose(region)
    return value, max(error, _error(region, value, x))


def _error(region: Region, value: AffineConv, x: Tensor) -> float:
    read = x
    for node in region.before:
        read = evaluate(node, {node.all_input_nodes[0]: read})
    error = relative(value(read), run_region(region, x))
    require(error, f"merging {', '.join(map(target_of, region.layers))}")
    return error


def require(error: float, what: str, remedy: str = "please report this") -> None:
    """Raise CheckError where ``what`` is off by more than TOLERANCE."""
    if not error <= TOLERANCE:  # also where it is not a number
        raise CheckError(f"{what} is off by {error:.1e} (relative, float64); {remedy}")


def require_finite(output: object, what: str) -> None:
    """Raise CheckError where there is an infinity or a NaN in any tensor of a (nested) output."""
    if not is_finite(output):
        raise CheckError(
            f"the output of {what} for random input is not finite, so that folding cannot be checked; look for values "
            "that explode, for example where an activation was removed"
        )


@contextmanager
def _random_statistics(norms: Sequence[nn.Module]) -> Iterator[None]:
    """Statistics and affine parameters away from 0 and 1, which would hide mistakes, in place of the modules' own."""
    generator = torch.Generator().manual_seed(0)
    bounds = {"running_mean": (-1, 1), "running_var": (0.5, 2), "weight": (0.5, 1.5), "bias": (-1, 1)}
    own = [(norm, name, getattr(norm, name)) for norm in norms for name in bounds if getattr(norm, name) is not None]
    for norm, name, tensor in own:
        low, high = bounds[name]
        drawn = torch.rand(tensor.shape, generator=generator, dtype=torch.float64) * (high - low) + low
        drawn = drawn.to(tensor)  # new tensors: the old ones may be those of the network given
        setattr(norm, name, nn.Parameter(drawn) if isinstance(tensor, nn.Parameter) else drawn)
    try:
        yield
    finally:
        for norm, name, tensor in own:
            setattr(norm, name, tensor)
