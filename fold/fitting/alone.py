"""Each of several layers fitted alone, in a network that is otherwise unchanged. What they share is computed once."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from layer_folding.errors import CheckError, InputError
from layer_folding.fit_choices import Choice

from .layer_fit import Grams, fit_layer, flat_beyond
from .parts import Part, find_parts
from .running import Running
from .sides import Sides, outputs_of, put, require_close, start
from .validity import require_enough, require_images, require_outputs

OutputBatches = list[tuple[Tensor, ...]]  # of a network for images, batch by batch


@dataclass(frozen=True)
class FittedAlone:
    """What a network gives with the fit that ``choice`` says; None where the fit was ``refused``, with the reason."""

    choice: Choice
    outputs: OutputBatches | None
    refused: str = ""


class Alone:
    """Fits layers of the graph ``traced``, in eval mode, to ``images``, each of them alone.

    ``expected`` are the outputs of ``traced`` for the images that are held out. Raises InputError where the images are
    not such as the network was trained on.
    """

    def __init__(self, traced: fx.GraphModule, images: Tensor):
        require_images(traced, images)
        require_outputs(traced, images[:1])
        self._traced, self._images = traced, images
        running, fitted = start(traced, images)
        self.expected: OutputBatches = outputs_of(running.behind(fitted))

    def each(self, choices: Iterable[Choice]) -> Iterator[FittedAlone]:
        """Each fit of ``choices``, in the order of the network; before them those that are refused without a fit."""
        parts: list[Part] = []
        for choice in choices:
            try:
                (part,) = find_parts(self._traced, [choice])
                require_enough(self._images, part)
            except InputError as error:
                yield FittedAlone(choice, None, str(error))
            else:
                parts.append(part)
        order = {node: i for i, node in enumerate(self._traced.graph.nodes)}
        parts.sort(key=lambda part: order[part.region.anchor])
        running, fitted = start(self._traced, self._images)
        for anchor, fits in itertools.groupby(parts, lambda part: part.region.anchor):
            running.to(anchor)
            grams: Grams = {}
            for part in fits:
                try:
                    outputs = _outputs(running, fitted, part, grams)
                except (InputError, CheckError) as error:
                    yield FittedAlone(part.choice, None, str(error))
                else:
                    yield FittedAlone(part.choice, outputs)


@torch.no_grad()
def _outputs(running: Running, fitted: int, part: Part, grams: Grams) -> OutputBatches:
    """What the network gives for the images held out with ``part`` fitted; ``running`` has run up to its anchor."""
    original = running.fork(running.traced, {node: node for node in running.traced.graph.nodes})
    sides = Sides.of(original, fitted)
    weights = fit_layer(sides, part, flat_beyond(part, set(part.region.removed)), grams)
    held_out = sides.held_out()
    _, error = put(held_out, part, weights)
    require_close(part.choice, error)
    return outputs_of(held_out.changed)
