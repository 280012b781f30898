import pytest
import torch

from layer_folding.fold import gates, linearize
from layer_folding.fold.graph.tracing import trace
from layer_folding.fold.models import build
from layer_folding.train.choosing import GateChoice, choose, depth_without, opened

PAIR, LONE = ("blocks.1.expand.act", "blocks.1.depthwise.act"), "blocks.3.expand.act"


@pytest.fixture
def gated():
    """A network with the gates of a whole block open, and a lone one."""
    model = linearize(build("mobilenetv2-digits", 10, 1), torch.zeros(1, 1, 32, 32))
    for name in (*PAIR, LONE):
        gates(model)[name].alpha.data.fill_(1.0)
    return model


def test_activations_whose_removal_buys_a_costlier_layer_stay(gated):
    traced = trace(gated, torch.zeros(1, 1, 32, 32))
    assert opened(gated) == [*PAIR, LONE]
    choice = choose(traced, opened(gated))
    assert choice.removed == PAIR and list(choice.kept) == [LONE]
    assert choice.kept[LONE].startswith("merging blocks.3.expand.conv + blocks.3.depthwise.conv would cost ")
    assert choose(traced, opened(gated), max_growth=100) == GateChoice((*PAIR, LONE), {})
    assert choose(traced, []) == GateChoice((), {})


def test_the_depth_is_that_without_the_chosen_ones(gated):
    traced = trace(gated, torch.zeros(1, 1, 32, 32))
    assert [depth_without(traced, names) for names in ([], PAIR, (*PAIR, LONE))] == [21, 19, 18]
