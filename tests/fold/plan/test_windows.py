"""A look at a part of the graph finds what a look at all of it finds."""

from itertools import combinations

import pytest

from layer_folding.fold.graph.nodes import is_activation
from layer_folding.fold.graph.tracing import trace
from layer_folding.fold.plan.windows import Windows
from layer_folding.fold.regions.finding import hoisted_regions
from tests.fold.networks import EXAMPLE, blocks


@pytest.mark.parametrize("name", blocks())
def test_the_regions_are_those_of_the_whole_graph(name):
    traced = trace(blocks()[name], EXAMPLE)
    windows = Windows(traced)
    activations = [node for node in traced.graph.nodes if is_activation(node)]
    for count in (1, 2, 3):
        for removed in combinations(activations, count):
            expected = [r for r in hoisted_regions(traced, removed).found if set(removed) & set(r.removed)]
            assert windows.regions(removed) == expected
