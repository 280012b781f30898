"""Layers of timm and torchvision: kept whole where tracing would bake in the mode or the image size."""

import pytest
import torch
from torch import nn
from torchvision.ops import StochasticDepth

from layer_folding.fold import fold, gates, harden, hoist_padding, linearize, scan
from layer_folding.fold.graph.tracing import trace
from tests.fold.networks import EXAMPLE, WIDTH, Skip, conv, difference, noise, randomised, removed_activation

DOUBLE = EXAMPLE.double()


@pytest.fixture
def timm():
    return pytest.importorskip("timm.layers")


def test_batch_norm_with_activation_is_two_layers(timm):
    network = nn.Sequential(conv(WIDTH, 6), timm.BatchNormAct2d(6), conv(6, 5, padding=0))
    randomised(network)
    traced = trace(network, EXAMPLE)
    assert traced.state_dict().keys() == network.state_dict().keys()
    assert [node.target for node in traced.graph.nodes if node.op == "call_module"] == [
        "0",
        "1",
        "1.drop",
        "1.act",
        "2",
    ]
    before = network[1].running_mean.clone()
    assert difference(traced.train()(noise(dtype=torch.float32)), network.train()(noise(dtype=torch.float32))) == 0
    assert torch.equal(traced.get_submodule("1").running_mean, network[1].running_mean)
    assert not torch.equal(before, network[1].running_mean)  # it trains
    assert [c.activations for c in scan(network, EXAMPLE).candidates] == [("1.act",)]


def test_batch_norm_with_activation_folds(timm):
    network = randomised(nn.Sequential(conv(WIDTH, 6), timm.BatchNormAct2d(6), conv(6, 5, padding=0)))
    gated = linearize(network, EXAMPLE)
    gates(gated)["1.act"].alpha.data.fill_(1)
    hard = harden(gated).double().eval()
    result = fold(hard, DOUBLE)
    assert [merge.layers for merge in result.folded] == [("0", "2")]
    assert difference(result.model(noise()), hard(noise())) <= 1e-9


@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_that_pads_by_size(timm, stride):
    """timm's "SAME": the traced network pads by size too; hoisting fixes the amounts of the example."""
    same = timm.create_conv2d(6, 5, 3, stride=stride, padding="same")
    network = nn.Sequential(conv(WIDTH, 6), removed_activation(), same if stride > 1 else timm.Conv2dSame(6, 5, 4))
    network = randomised(network).double().eval()
    traced = trace(network, DOUBLE)
    assert traced.state_dict().keys() == network.state_dict().keys()
    for size in (15, 16):
        x = torch.randn(1, WIDTH, size, size + 1, dtype=torch.float64)
        assert difference(traced(x), network(x)) == 0
    hard, report = hoist_padding(network, DOUBLE)
    assert len(report) == 1
    result = fold(hard, DOUBLE)
    assert [merge.layers for merge in result.folded] == [("0", "2")]
    assert difference(result.model(noise()), hard(noise())) <= 1e-9


def test_branch_dropout_follows_the_mode(timm):
    for drop in (timm.DropPath(0.5), StochasticDepth(0.5, "row")):
        body = nn.Sequential(conv(WIDTH, 6), removed_activation(), conv(6, WIDTH, 1), drop)
        network = Skip(body).double().eval()
        result = fold(network, DOUBLE)
        assert len(result.folded) == 1
        assert difference(result.model(noise()), network(noise())) <= 1e-9
        traced = trace(network, DOUBLE).train()
        torch.manual_seed(0)
        outputs = [traced(noise()) for _ in range(8)]
        assert any(difference(a, b) > 0 for a in outputs for b in outputs)
