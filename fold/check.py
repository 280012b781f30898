"""The self-check: what was merged against what it replaces, in float64, with random statistics too."""

from __future__ import annotations

import math

import torch
from torch import Tensor, fx, nn

from fold.affine import AffineConv
from fold.errors import CheckError
from fold.graph import evaluate
from fold.layers import BATCH_NORMS
from fold.regions import Region

TOLERANCE = 1e-9  # of the largest value, in float64


def check_regions(
    exact: fx.GraphModule, regions: list[Region], values: list[AffineConv], x: Tensor
) -> tuple[object, list[float]]:
    """The output of ``exact`` for ``x``, and the relative error of each region's value on the way; all in float64."""
    output, kept = _run(exact, x, {node for region in regions for node in (region.anchor, region.output)})
    errors = []
    for region, value in zip(regions, values, strict=True):
        errors.append(relative(value(_prepared(region, kept[region.anchor])), kept[region.output]))
        require(errors[-1], f"merging {', '.join(node.target for node in region.layers)}")
    return output, errors


def _prepared(region: Region, x: Tensor) -> Tensor:
    """What the merged layer reads, of the anchor's value ``x``."""
    for node in region.before:
        x = evaluate(node, {node.args[0]: x})
    return x


def require(error: float, what: str, remedy: str = "please report this") -> None:
    """Raise CheckError where ``what`` is off by more than TOLERANCE."""
    if not error <= TOLERANCE:  # also where it is not a number
        raise CheckError(f"{what} is off by {error:.1e} (relative, float64); {remedy}")


def _run(traced: fx.GraphModule, x: Tensor, keep: set[fx.Node]) -> tuple[object, dict[fx.Node, Tensor]]:
    """The output of the graph, and the values of the nodes in ``keep``."""
    kept = {}

    class Keep(fx.Interpreter):
        def run_node(self, node: fx.Node) -> object:
            value = super().run_node(node)
            if node in keep:
                kept[node] = value
            return value

    return Keep(traced).run(x), kept


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


def is_finite(output: object) -> bool:
    """Whether there is no infinity and no NaN in any tensor of a (nested) output."""
    if isinstance(output, Tensor):
        return bool(output.isfinite().all())
    parts = output.values() if isinstance(output, dict) else output if isinstance(output, (list, tuple)) else ()
    return all(map(is_finite, parts))


def randomise_statistics(model: nn.Module, generator: torch.Generator) -> None:
    """BatchNorm statistics and affine parameters away from 0 and 1, which would hide mistakes."""

    def fill(tensor: Tensor | None, low: float, high: float) -> None:
        if tensor is not None:
            tensor.data.copy_(torch.rand(tensor.shape, generator=generator, dtype=torch.float64) * (high - low) + low)

    for module in model.modules():
        if isinstance(module, BATCH_NORMS):
            for tensor, low, high in (
                (module.running_mean, -1, 1),
                (module.running_var, 0.5, 2),
                (module.weight, 0.5, 1.5),
                (module.bias, -1, 1),
            ):
                fill(tensor, low, high)
