"""The values of a graph through which everything goes: where it can be taken apart."""

from __future__ import annotations

from torch import fx


def stations(traced: fx.GraphModule) -> list[fx.Node]:
    """The nodes, in graph order, whose value is a tensor and the only one that later nodes read of those so far."""
    nodes = [node for node in traced.graph.nodes if node.op != "output"]
    order = {node: i for i, node in enumerate(nodes)}
    found, open_until = [], -1
    for i, node in enumerate(nodes):
        if node.op == "get_attr":
            continue
        if open_until <= i and isinstance(node.meta.get("shape"), tuple):
            found.append(node)
        open_until = max(open_until, max((order.get(user, len(nodes)) for user in node.users), default=i))
    return found
