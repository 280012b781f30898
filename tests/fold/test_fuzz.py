"""Folding random networks: the same function, no more layers, and a named rule for each layer that stays.

`make fuzz N=10000` takes more of them than `make test` does.
"""

from __future__ import annotations

import copy
import operator
import os
import re
from collections import Counter
from itertools import chain

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor, fx

from layer_folding.errors import CheckError
from layer_folding.fold import FoldResult, fold, hoist_padding
from layer_folding.fold.algebra.layers import is_addition, is_concatenation, is_weighted
from layer_folding.fold.graph.tracing import trace
from layer_folding.fold.merge.checking import compose_checked
from layer_folding.fold.merge.composing import compose
from layer_folding.fold.regions.finding import Region, hoisted_regions
from tests.fold.random_networks import random_networks

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "1000"))
TOLERANCE = 1e-9  # of the largest value
BORDER = r".* pads inside the region, so merging is wrong at the borders; hoist_padding first"
# The rules by which a layer may stay apart. A new rule has to be added here, so that nobody adds one by accident.
RULES = (
    BORDER,
    r".* is read in several places, and is computed once",
    r"the activation .* comes before it",
    r".* is not (linear|an operation on one tensor)",
    r".* works on another axis of .* than the layers before it",
    r".* joins values of different anchors: .* and .*",
    r".* joins values of .* at different strides",
    r".* concatenates, and no activation was removed right before it",
    r".* does not concatenate channels",
    r"the \d+ channels of .* are a bottleneck that merging would undo",
    r"no activation was removed after .*, and merging would cost [\d.]+x the MACs",
    r".* pads the output of .*",
    r".* pads behind .*, so merging is wrong at the borders",
    r".* averages over fewer pixels at the borders",
    r".*: a transposed convolution merges with pointwise layers only",
    r".* spreads the bias of the layers before it unevenly at the borders",
)


@pytest.mark.slow
@pytest.mark.timeout(600 + EXAMPLES)  # seconds; making a failure small takes up to five minutes by itself
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(random_networks())
def test_random_networks(drawn):
    network, x = drawn
    traced = trace(network, x)
    result = fold(network, x)
    assert difference(result.model(x), network(x)) <= TOLERANCE
    check_layers(traced, result)
    hoisted, moved = hoist_padding(network, x)
    if moved:
        hoisted_result = fold(hoisted, x)
        assert difference(hoisted_result.model(x), hoisted(x)) <= TOLERANCE
        check_layers(hoisted, hoisted_result)
    check_borders(traced, result)


def check_layers(traced: fx.GraphModule, result: FoldResult) -> None:
    """Each layer is merged, or stays by a rule, or is the first of its path; there are no more of them than before."""
    entries = Counter(chain(*(merge.layers for merge in result.folded), (entry.layer for entry in result.skipped)))
    for node in traced.graph.nodes:
        if is_weighted(node):
            assert entries.pop(node.target, 0) == 1 or depths(traced)[node] == 1, f"{node.target} is not accounted for"
    assert not entries
    assert not [entry for entry in result.skipped if not any(re.fullmatch(rule, entry.reason) for rule in RULES)]
    assert max(depths(result.model).values()) <= max(depths(traced).values())
    merged_away = sum(len(merge.layers) - 1 for merge in result.folded)
    assert weighted(result.model) == weighted(traced) - merged_away


def check_borders(traced: fx.GraphModule, result: FoldResult) -> None:
    """Where padding was the reason, merging up to that layer would have been wrong, and the self-check would say so."""
    for layer in (entry.layer for entry in result.skipped if re.fullmatch(BORDER, entry.reason)):
        part = copy.deepcopy(traced)
        end = next(node for node in part.graph.nodes if node.target == layer)
        part.graph.output_node().args = (end,)
        part.graph.eliminate_dead_code()
        for region in hoisted_regions(part).found:
            layers = {node.target for node in region.layers}
            # one that cuts through what was merged instead is another choice, not the one that was refused
            refused = all(layers.isdisjoint(merge.layers) or layers.issuperset(merge.layers) for merge in result.folded)
            if region.output is end and refused and not has_dropped_branch(region):
                with pytest.raises(CheckError), torch.no_grad():
                    compose_checked(region, compose, torch.randn(region.anchor.meta["shape"], dtype=torch.float64))


def has_dropped_branch(region: Region) -> bool:
    """Whether channels may have been dropped whose reach is larger than that of those which stay.

    A geometry is one for all channels: it then promises too much, and the refusal is of a merge that would be right.
    """
    selects = [node.target is operator.getitem for node in region.nodes]
    joins = [is_addition(node) or is_concatenation(node) for node in region.nodes]
    return any(joins[: selects.index(True)]) if any(selects) else False


def depths(traced: fx.GraphModule) -> dict[fx.Node, int]:
    """The most weighted layers on a path from the input to each node, the node included."""
    longest = {}
    for node in traced.graph.nodes:
        longest[node] = max((longest[x] for x in node.all_input_nodes), default=0) + is_weighted(node)
    return longest


def weighted(traced: fx.GraphModule) -> int:
    return sum(map(is_weighted, traced.graph.nodes))


def difference(actual: Tensor | tuple[Tensor, ...], expected: Tensor | tuple[Tensor, ...]) -> float:
    """The largest difference over the largest value; of several tensors, that of the worst."""
    if not isinstance(expected, Tensor):
        return max(difference(a, e) for a, e in zip(actual, expected, strict=True))
    assert actual.shape == expected.shape
    scale = expected.abs().max().clamp_min(torch.finfo(expected.dtype).tiny)
    return ((actual - expected).abs().max() / scale).item()
