"""What was fitted in a network, noted on its graph, so that the network can be saved with the recipe that rebuilds it.

A fitted layer does not show which activations it stands for, and after folding the layer itself is merged. So the note
is on the graph as a whole. Copies of the graph keep the note, and so does tracing the graph again.
"""

from __future__ import annotations

from torch import fx, nn

from layer_folding.recipes import FitRecord

_KEY = "layer_folding.fitted"


def note_fits(traced: fx.GraphModule, fits: tuple[FitRecord, ...]) -> None:
    """Note ``fits`` on ``traced``, behind those that are noted; nothing where there are none."""
    if fits:
        traced.meta[_KEY] = (*fits_of(traced), *fits)


def fits_of(model: nn.Module) -> tuple[FitRecord, ...]:
    """What `note_fits` noted on ``model``."""
    noted: tuple[FitRecord, ...] = model.meta.get(_KEY, ()) if isinstance(model, fx.GraphModule) else ()
    return noted
