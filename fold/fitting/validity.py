"""What has to hold of images before anything is fitted to them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx

from layer_folding.errors import InputError

from ..algebra.layers import BATCH_NORMS
from ..graph.nodes import module_of, shape_of, target_of
from .divergences import tensors_of
from .moments import unknowns
from .parts import Part
from .running import Running

HELD_OUT = 8  # every so manieth image is held out
_PER_UNKNOWN = 2  # positions that a fit needs at least for each unknown
MOST_UNKNOWNS = 8192  # of an output: their normal equations take 0.5 GB, and so does solving them
_UNLIKE = 16  # an input of BatchNorm whose variance is so many times what it was trained on


def split(images: Tensor) -> tuple[Tensor, Tensor]:
    """The images that are fitted on, and those that are held out: every HELD_OUTth, since images may come by class."""
    held_out = torch.arange(len(images)) % HELD_OUT == 0
    return images[~held_out], images[held_out]


def require_images(traced: fx.GraphModule, images: Tensor) -> None:
    """Raise InputError where ``images`` are not what the network was trained on."""
    if not images.isfinite().all():
        raise InputError("images: some pixels are not finite; leave these images out")
    _require_usual_statistics(traced, images[: 4 * HELD_OUT])


def require_enough(images: Tensor, part: Part) -> None:
    """Raise InputError where ``images`` are too few for ``part``, or where it has too many unknowns for the memory."""
    geometry = part.crop.geometry if part.crop else None
    count = unknowns(geometry) if geometry else 2
    if count > MOST_UNKNOWNS:
        raise InputError(
            f"{part.choice.names}: each output has {count} unknowns, and the normal equations of more than "
            f"{MOST_UNKNOWNS} take too much memory; give a smaller shape"
        )
    shape = shape_of(part.region.output)
    pixels = math.prod(shape[2:] if part.merged.axes else shape[1:-1])
    needed = math.ceil(math.ceil(_PER_UNKNOWN * count / pixels) * HELD_OUT / (HELD_OUT - 1)) + 1
    if len(images) < needed:
        raise InputError(
            f"{part.choice.names}: {len(images)} images are too few for the {count} unknowns of each output; give "
            f"at least {needed}, or a smaller shape"
        )


@torch.no_grad()
def require_outputs(traced: fx.GraphModule, image: Tensor) -> None:
    """Raise InputError where the network gives nothing for one ``image`` that could be compared."""
    outputs = tensors_of(traced(image))
    if not outputs or any(len(values) != len(image) for values in outputs):
        raise InputError("the network does not give tensors with an axis for the batch; fit the part of it that does")


def _require_usual_statistics(traced: fx.GraphModule, images: Tensor) -> None:
    """Look at what the first trained BatchNorm reads."""
    norms = [node for node in traced.graph.nodes if isinstance(module_of(node), BATCH_NORMS)]
    norm: Any = module_of(norms[0]) if norms else None
    if norm is None or norm.running_var is None or not norm.num_batches_tracked:
        return
    (x,) = norms[0].all_input_nodes
    (values,) = Running.of(traced, [images]).until(x)
    channels_last = values[x].movedim(1, -1).flatten(0, -2)
    square = (channels_last - norm.running_mean).square().mean(0)
    ratio = (square / (norm.running_var + norm.eps)).median().item()
    if not 1 / _UNLIKE < ratio < _UNLIKE:
        raise InputError(
            f"images: at {target_of(norms[0])} their variance is {ratio:.2g} times that of the images that the network "
            "was trained on; give them in the size and normalisation of the training"
        )
