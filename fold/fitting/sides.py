"""The original network and the network that is changed layer by layer, with their values for batches of images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from layer_folding.errors import CheckError
from layer_folding.fit_choices import Choice

from .divergences import RelativeError, tensors_of
from .parts import Part
from .placing import FittedWeights, Placed, fill, place, twin
from .running import Running
from .validity import split

_BATCH_BYTES = 2**26  # of the largest value of a batch

Values = dict[fx.Node, Any]


@dataclass(frozen=True)
class Sides:
    """The two networks: which node of the ``original`` is which in the one as ``changed`` so far.

    The first ``fitted`` batches of images are fitted on, the others are held out.
    """

    original: Running
    changed: Running
    nodes: dict[fx.Node, fx.Node]
    fitted: int

    @classmethod
    def of(cls, original: Running, fitted: int) -> Sides:
        """``original`` as far as it has run, beside a copy of its network to be changed."""
        changed, nodes = twin(original.traced)
        return cls(original, original.fork(changed, nodes), nodes, fitted)

    def held_out(self) -> Sides:
        """Both networks for the images that are held out alone."""
        return Sides(self.original.behind(self.fitted), self.changed.behind(self.fitted), self.nodes, 0)


def start(traced: fx.GraphModule, images: Tensor) -> tuple[Running, int]:
    """``traced`` before its first layer, for batches of ``images``; and how many batches, the first, are fitted on."""
    largest = max(torch.Size(node.meta["shape"] or ()).numel() for node in traced.graph.nodes)
    batch = max(1, min(64, _BATCH_BYTES // (largest * images.element_size())))
    fitted, held_out = (list(some.split(batch)) for some in split(images))
    return Running.of(traced, [*fitted, *held_out]), len(fitted)


def put(sides: Sides, part: Part, weights: FittedWeights) -> tuple[Placed, float]:
    """Put a layer with ``weights`` in the place of ``part``, and run both networks up to what the layer gives.

    Gives what was placed, and its error relative to the best constant, on the images that are held out.
    """
    output = part.region.output
    sides.original.to(output)
    sides.changed.forget([sides.nodes[node] for node in part.replaced])
    placed = place(sides.changed.traced, sides.nodes, part)
    fill(sides.changed.traced, placed, weights)
    sides.changed.to(sides.nodes[output])
    error = RelativeError(part.merged.axes)
    for original, changed in list(zip(sides.original.batches, sides.changed.batches, strict=True))[sides.fitted :]:
        error.add(original[output], changed[sides.nodes[output]])
    return placed, error.value


class RefusedFit(CheckError):
    """A layer, that of ``choice``, is worse than a constant: its relative error is ``error``."""

    def __init__(self, choice: Choice, error: float):
        super().__init__(
            f"{' '.join(choice.activations)}: fitted with shape {choice.shape!r}, the error is {error:.2f} times "
            "that of a constant; leave the fit out, give a larger shape, or force it"
        )
        self.choice = choice


def require_close(choice: Choice, error: float) -> None:
    """Raise RefusedFit where a layer with this relative ``error`` is worse than a constant."""
    if not error <= 1:
        raise RefusedFit(choice, error)


def outputs_of(running: Running) -> list[tuple[Tensor, ...]]:
    """Run to the end; what the network gives for each batch, as tensors."""
    output = running.traced.graph.output_node()
    for node in output.all_input_nodes:
        running.to(node)
    return [tensors_of(fx.node.map_arg(output.args[0], values.__getitem__)) for values in running.batches]
