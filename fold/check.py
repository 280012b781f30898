"""The self-check: what was merged against what it replaces, in float64, with random statistics too."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fold.affine import AffineConv
from fold.errors import CheckError
from fold.exact import run_region
from fold.graph import evaluate, module_of
from fold.layers import BATCH_NORMS
from fold.regions import Region

TOLERANCE = 1e-9  # of the largest value, in float64
TRACE_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}  # others: of half precision
HALF_TOLERANCE = 1e-2


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
        read = evaluate(node, {node.args[0]: read})
    error = relative(value(read), run_region(region, x))
    require(error, f"merging {', '.join(node.target for node in region.layers)}")
    return error


def require(error: float, what: str, remedy: str = "please report this") -> None:
    """Raise CheckError where ``what`` is off by more than TOLERANCE."""
    if not error <= TOLERANCE:  # also where it is not a number
        raise CheckError(f"{what} is off by {error:.1e} (relative, float64); {remedy}")


def require_same_trace(traced: nn.Module, model: nn.Module, x: Tensor) -> None:
    """Raise CheckError where the graph computes another function of ``x`` than the network, in their own precision."""
    expected = model(x)
    require_finite(expected, f"{type(model).__name__} in {x.dtype}")
    error = relative(traced(x), expected)
    if not error <= TRACE_TOLERANCE.get(x.dtype, HALF_TOLERANCE):
        raise CheckError(
            f"the graph that was traced is off by {error:.1e} (relative, {x.dtype}); torch.fx does not see writes to "
            "views or under other names: write out of place"
        )


def require_finite(output: object, what: str) -> None:
    """Raise CheckError where there is an infinity or a NaN in any tensor of a (nested) output."""
    if not _is_finite(output):
        raise CheckError(
            f"the output of {what} for random input is not finite, so that folding cannot be checked; look for values "
            "that explode, for example where an activation is gone"
        )


def relative(actual: object, expected: object) -> float:
    """The largest difference over the largest value, over all tensors of a (nested) output."""
    if isinstance(expected, Tensor):
        if not expected.numel():
            return 0.0
        actual, expected = actual.double(), expected.double()
        scale = expected.abs().max().clamp_min(torch.finfo(torch.float64).tiny)
        return ((actual - expected).abs().max() / scale).item()
    if isinstance(expected, dict):
        actual, expected = actual.values(), expected.values()
    elif not isinstance(expected, (list, tuple)):
        return 0.0 if actual == expected else math.inf
    return max((relative(a, e) for a, e in zip(actual, expected, strict=True)), default=0.0)


def _is_finite(output: object) -> bool:
    if isinstance(output, Tensor):
        return bool(output.isfinite().all())
    parts = output.values() if isinstance(output, dict) else output if isinstance(output, (list, tuple)) else ()
    return all(map(_is_finite, parts))


@contextmanager
def _random_statistics(norms: list[nn.Module]) -> Iterator[None]:
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
