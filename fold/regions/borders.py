"""The bias of a merged layer where it differs by pixel: at the borders, behind layers that pad."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..algebra.layers import layer_of
from ..graph.nodes import Opaque, shape_of
from .exact_run import run_region
from .finding import Region


class BiasMap(Opaque):
    """Adds ``bias``, `[channels, *spatial]`, to images of just that size."""

    def __init__(self, bias: Tensor):
        super().__init__()
        self.bias = nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1:] != self.bias.shape:
            raise ValueError(
                f"the network was folded for a value of {list(self.bias.shape)} here and got {list(x.shape[1:])}; "
                "to be free of the image size, hoist_padding before folding"
            )
        return x + self.bias


def bias_map(region: Region) -> Tensor:
    """What ``region`` gives where its anchor is zero: the bias of each pixel, `[out, *spatial]`, in float64."""
    like = layer_of(region.layers[0]).weight
    zeros = like.new_zeros(1, *shape_of(region.anchor)[1:], dtype=torch.float64)
    return run_region(region, zeros).detach()[0]
