"""Which activations are of use only together: the expand and depthwise activations of one block, branches of a sum."""

from __future__ import annotations

from collections.abc import Collection

from torch import fx

from .costs import MAX_GROWTH
from .finding import hoisted
from .steps import read_steps

_LARGEST = 3  # activations in a group


def joint_activations(traced: fx.GraphModule, activations: Collection[fx.Node]) -> list[tuple[fx.Node, ...]]:
    """``activations``, in the order of the graph, in groups, each of which pays as a whole and in no smaller part.

    A group pays where its removal, everything else kept, lets layers merge, into none that is more than MAX_GROWTH
    times the work. An activation that pays neither alone nor with its neighbours is a group of its own.
    """
    steps = read_steps(traced)

    def pays(group: Collection[fx.Node]) -> bool:
        regions = [region for region in hoisted(steps, frozenset(group)).found if region.removed]
        return bool(regions) and all(region.macs[1] <= MAX_GROWTH * region.macs[0] for region in regions)

    groups: list[tuple[fx.Node, ...]] = []
    left = list(activations)
    for size in range(1, _LARGEST + 1):
        start = 0
        while start + size <= len(left):
            group = tuple(left[start : start + size])
            if pays(group):
                groups.append(group)
                del left[start : start + size]
            else:
                start += 1
    for node in left:  # of use only beside a group that pays without it
        number = next((number for number, group in enumerate(groups) if pays((*group, node))), None)
        if number is None:
            groups.append((node,))
        else:
            groups[number] = (*groups[number], node)
    return groups
