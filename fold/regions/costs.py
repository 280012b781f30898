"""What a network costs: depth, parameters, multiply-accumulates."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from torch import Tensor, fx, nn

from ..algebra.layers import is_weighted
from ..graph.tracing import trace
from .finding import hoisted_regions, layer_macs

# A merge that takes more than this many times the multiply-accumulates of its layers apart is taken to be slower on any
# device: nobody measures it, and where nothing is measured nobody makes it.
MAX_GROWTH = 2.0


@dataclass(frozen=True)
class Cost:
    """``depth``: weighted layers on the longest path; ``parameters``: of the whole network, each once; ``macs``:
    multiply-accumulates of convolutions and linear layers for one image.
    """

    depth: int
    parameters: int
    macs: int


def cost(model: nn.Module, example: Tensor) -> Cost:
    """Depth, parameters and multiply-accumulates of ``model`` for one image of the size of ``example``.

    Counts the modules `nn.Conv*d`, `nn.ConvTranspose*d` and `nn.Linear`, once for each call.

    Args:
        model: any network that ``torch.fx`` can trace, in any mode; it is not modified.
        example: one input batch `[batch, in, *spatial]`; only its shape, dtype and device matter.

    Raises:
        InputError: the network cannot be traced or does not accept ``example``.

    Example:
        >>> import torch, layer_folding as lf
        >>> lf.cost(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU()), torch.rand(1, 3, 16, 16))
        Cost(depth=1, parameters=224, macs=42336)
    """
    traced = trace(model, example, share_weights=True)
    longest: dict[fx.Node, int] = {}
    macs = 0
    for node in traced.graph.nodes:
        longest[node] = max((longest[x] for x in node.all_input_nodes), default=0) + is_weighted(node)
        macs += layer_macs(node) if is_weighted(node) else 0
    return Cost(max(longest.values()), sum(p.numel() for p in model.parameters()), macs)


def depth(model: nn.Module, example: Tensor) -> int:
    """Weighted layers (convolutions and linear layers) on the longest path through ``model``.

    Args:
        model: any network that ``torch.fx`` can trace, in any mode; it is not modified.
        example: one input batch `[batch, in, *spatial]`; only its shape, dtype and device matter.

    Raises:
        InputError: the network cannot be traced or does not accept ``example``.

    Example:
        >>> import torch, layer_folding as lf
        >>> lf.depth(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU()), torch.rand(1, 3, 16, 16))
        1
    """
    return cost(model, example).depth


def folded_depth(traced: fx.GraphModule, removed: Collection[fx.Node]) -> int:
    """The depth that ``traced`` (from `trace`) would have after removing activations, hoisting and folding.

    Nothing is merged for it, so that a training loop can ask after every epoch.
    """
    regions = {region.output: region for region in hoisted_regions(traced, removed).found}
    longest: dict[fx.Node, int] = {}
    for node in traced.graph.nodes:
        if node in regions:
            longest[node] = longest[regions[node].anchor] + 1
        else:
            longest[node] = max((longest[x] for x in node.all_input_nodes), default=0) + is_weighted(node)
    return longest[traced.graph.output_node()]
