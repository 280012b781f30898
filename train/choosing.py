"""Which activations with an open gate to take out: those whose removal allows a merge that is worth its cost."""

from collections.abc import Collection
from dataclasses import dataclass

from torch import fx, nn

from layer_folding.fold.gating import THRESHOLD, gates, is_open
from layer_folding.fold.regions.costs import MAX_GROWTH, folded_depth
from layer_folding.fold.regions.finding import hoisted_regions


@dataclass(frozen=True)
class GateChoice:
    """The activations to take out, and the open gates whose activation had better stay, with the reason."""

    removed: tuple[str, ...]
    kept: dict[str, str]


def opened(model: nn.Module, threshold: float = THRESHOLD) -> list[str]:
    """The gates of ``model`` that are open."""
    return [name for name, gate in gates(model).items() if is_open(gate, threshold)]


def choose(traced: fx.GraphModule, opened: Collection[str], max_growth: float = MAX_GROWTH) -> GateChoice:
    """Which of the gates ``opened`` of ``traced`` (from `trace`) to take out.

    A lone open gate in an inverted residual would merge a pointwise with a depthwise convolution into a dense one, at
    many times the arithmetic: an activation lost, and nothing won. So an activation stays where the merge that it is
    part of takes more than ``max_growth`` times the multiply-accumulates. This is a stand-in for measured latency.
    """
    chosen = _nodes(traced, opened)
    kept: dict[str, str] = {}
    while chosen:
        regions = hoisted_regions(traced, tuple(chosen.values())).found
        costly = next((r for r in regions if r.removed and r.macs[1] > max_growth * r.macs[0]), None)
        if costly is None:
            break
        layers = " + ".join(str(node.target) for node in costly.layers)
        for node in costly.removed:
            del chosen[str(node.target)]
            kept[str(node.target)] = f"merging {layers} would cost {costly.macs[1] / costly.macs[0]:.1f}x the MACs"
    return GateChoice(tuple(chosen), kept)


def depth_without(traced: fx.GraphModule, removed: Collection[str]) -> int:
    """The depth that ``traced`` would have, folded, without the activations ``removed``."""
    return folded_depth(traced, list(_nodes(traced, removed).values()))


def _nodes(traced: fx.GraphModule, names: Collection[str]) -> dict[str, fx.Node]:
    """The calls of the modules ``names``, in the order of ``names``."""
    nodes = {str(node.target): node for node in traced.graph.nodes if node.op == "call_module"}
    return {name: nodes[name] for name in names}
