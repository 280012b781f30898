"""Which activations with an open gate to take out: those whose removal allows a merge that is worth its cost."""

from torch import Tensor, nn

from fold.cost import MAX_GROWTH
from fold.regions import find_regions
from fold.trace import trace
from train.gates import THRESHOLD, gates, is_open


def choose(
    model: nn.Module, example: Tensor, threshold: float = THRESHOLD, max_growth: float = MAX_GROWTH
) -> tuple[list[str], dict[str, str]]:
    """The gates of ``model`` to remove, and those that are open but had better keep their activation, with the reason.

    A lone open gate in an inverted residual would merge a pointwise with a depthwise convolution into a dense one, at
    many times the arithmetic: an activation lost, and nothing won. So an activation stays where the merge that it is
    part of takes more than ``max_growth`` times the multiply-accumulates. This is a stand-in for measured latency.
    """
    traced = trace(model, example)
    nodes = {node.target: node for node in traced.graph.nodes if node.op == "call_module"}
    chosen = {name: nodes[name] for name, gate in gates(model).items() if is_open(gate, threshold)}
    kept: dict[str, str] = {}
    while True:
        regions = find_regions(traced, tuple(chosen.values()), any_padding=True)[0]
        costly = next((r for r in regions if r.removed and r.macs[1] > max_growth * r.macs[0]), None)
        if costly is None:
            return list(chosen), kept
        layers = " + ".join(node.target for node in costly.layers)
        for node in costly.removed:
            del chosen[node.target]
            kept[node.target] = f"merging {layers} would cost {costly.macs[1] / costly.macs[0]:.1f}x the MACs"
