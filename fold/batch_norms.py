"""BatchNorm statistics taken anew, for a network that was changed: its values are no longer those of its training."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from layer_folding.errors import InputError

from .algebra.layers import BATCH_NORMS

BATCH = 250


@torch.no_grad()
def take_statistics(model: nn.Module, images: Tensor) -> None:
    """Set the running statistics of the BatchNorms of ``model`` to those of ``images``, `[N, C, H, W]`, in place.

    The mean over batches of up to 250, of one size. The network ends in eval mode. Raises InputError for fewer than 2
    images.
    """
    norms = [module for module in model.modules() if isinstance(module, BATCH_NORMS) and module.track_running_stats]
    if norms and len(images) < 2:
        raise InputError(f"BatchNorm statistics: {len(images)} images have none; give 2 or more")
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    for batch in images.tensor_split(math.ceil(len(images) / BATCH)) if norms else ():  # none of one image
        model(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
