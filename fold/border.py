"""The bias of a merged layer where it differs by pixel: at the borders, behind layers that pad."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, fx, nn

from fold.graph import Opaque, evaluate, module_of, tensor_of
from fold.regions import Region


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
    like = next(node for node in region.layers)
    anchor = module_of(like).weight.new_zeros(1, *region.anchor.meta["shape"][1:], dtype=torch.float64)
    values: dict[fx.Node, Tensor] = {region.anchor: anchor}
    for node in region.nodes:
        values |= {x: tensor_of(x).double() for x in node.all_input_nodes if x not in values}
        module = module_of(node)
        values[node] = evaluate(node, values, None if module is None else copy.deepcopy(module).double())
    return values[region.output].detach()[0]
