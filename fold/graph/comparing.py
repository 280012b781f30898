"""Whether two networks compute the same function, seen from their outputs for one random input.

Outputs are tensors, or tuples, lists, dictionaries and data classes of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass

import torch
from torch import Tensor, nn

from layer_folding.errors import InputError

from .nodes import not_accepted, random_like

# Relative to the largest value. The graph makes the same calls as the network, on a GPU maybe by another algorithm.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}
_TOLERANCE_CUDA = {torch.float64: 1e-9, torch.float32: 1e-3}
_HALF_TOLERANCE = 1e-2


def random_output(run: Callable[[Tensor], object], example: Tensor, *, seed: int = 0) -> object:
    """What ``run`` gives for random values of the shape, dtype and device of ``example``, the same values each time.

    ``seed`` decides what ``run`` itself draws. Raises InputError where it does not accept such an input.
    """
    with torch.no_grad(), torch.random.fork_rng([example.device] if example.is_cuda else []):
        torch.manual_seed(seed)
        try:
            return run(random_like(example))
        except InputError:
            raise
        except Exception as error:
            raise not_accepted(example, error) from error


def require_same_function(
    traced: nn.Module, actual: object, expected: object, example: Tensor, patched: Sequence[str]
) -> None:
    """Raise InputError where ``traced`` gives the `random_output` ``actual``, and the network another, ``expected``.

    ``patched`` says what was changed on the network from outside, for the message. Nothing can be compared on the meta
    device, nor where the output is not finite, nor where it is random.
    """
    tolerances = _TOLERANCE_CUDA if example.is_cuda else _TOLERANCE
    tolerance = tolerances.get(example.dtype, _HALF_TOLERANCE)
    if example.is_meta or not is_finite(expected):
        return
    error = relative(actual, expected)
    if error <= tolerance or relative(random_output(traced, example, seed=1), actual) > tolerance:
        return
    remedy = "torch.fx records operations on tensors only: compute the output by these, from the input alone"
    if patched:
        remedy = f"tracing leaves out {' and '.join(patched)}: remove it, or make it a module of the network"
    what = f"{type(traced).__name__} cannot be traced: its graph is off by {error:.1e} (relative, {example.dtype})"
    raise InputError(f"{what}; {remedy}")


def relative(actual: object, expected: object) -> float:
    """The largest difference of two outputs over the largest value of ``expected``, tensor by tensor.

    Infinite where the two differ in their structure, or in anything that is no tensor.
    """
    if isinstance(expected, Tensor):
        return _relative(actual, expected) if isinstance(actual, Tensor) else math.inf
    parts = parts_of(expected)
    if parts is None:
        return 0.0 if actual is expected or actual == expected else math.inf
    others = parts_of(actual)
    if others is None or others.keys() != parts.keys():
        return math.inf
    return max((relative(others[key], part) for key, part in parts.items()), default=0.0)


def is_finite(output: object) -> bool:
    """Whether there is neither an infinity nor a NaN in any tensor of an output."""
    return all(bool(tensor.isfinite().all()) for tensor in tensors_in(output))


def tensors_in(value: object) -> Iterator[Tensor]:
    """All tensors of an output."""
    if isinstance(value, Tensor):
        yield value
    else:
        for part in (parts_of(value) or {}).values():
            yield from tensors_in(part)


def _relative(actual: Tensor, expected: Tensor) -> float:
    if actual.shape != expected.shape:
        return math.inf
    if not expected.numel():
        return 0.0
    actual, expected = actual.double(), expected.double()
    scale = expected.abs().max().clamp_min(torch.finfo(torch.float64).tiny)
    return ((actual - expected).abs().max() / scale).item()


def parts_of(value: object) -> dict[object, object] | None:
    """What ``value`` is made of, by name or place; None where it has no parts."""
    if isinstance(value, dict):
        return dict(value)
    if isinstance(value, (list, tuple)):
        return dict(enumerate(value))
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    return None
