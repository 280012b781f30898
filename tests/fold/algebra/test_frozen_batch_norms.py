"""Frozen BatchNorms, which trained detectors have: arithmetic with buffers, which merges as other BatchNorms do."""

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

import layer_folding as lf
from layer_folding.fold import fold, gates, harden, hoist_padding, linearize
from tests.fold.networks import EXAMPLE, WIDTH, Calls, conv, difference, noise, removed_activation

DOUBLE = EXAMPLE.double()


def frozen(channels: int) -> FrozenBatchNorm2d:
    norm = FrozenBatchNorm2d(channels)
    for buffer in norm.buffers():
        nn.init.uniform_(buffer, 0.5, 1.5)
    return norm


def frozen_network() -> nn.Module:
    return nn.Sequential(conv(WIDTH, 6), frozen(6), nn.ReLU(), conv(6, 5), frozen(5), nn.ReLU(), conv(5, 4, 1))


def test_a_frozen_batch_norm_merges():
    gated = linearize(frozen_network().double().eval(), DOUBLE)
    assert list(gates(gated)) == ["2", "5"]
    for gate in gates(gated).values():
        gate.alpha.data.fill_(1)
    hoisted = hoist_padding(harden(gated), DOUBLE)[0]
    result = fold(hoisted, DOUBLE)
    assert [merge.layers for merge in result.folded] == [("0", "3", "6")]
    assert difference(result.model(noise()), hoisted(noise())) <= 1e-9
    assert len(result.model.state_dict()) == 2  # of one layer; nothing of the BatchNorms is left


def test_it_is_saved_and_loaded(tmp_path):
    name = f"{frozen_network.__module__}:frozen_network"
    gated = linearize(frozen_network(), EXAMPLE).eval()
    lf.save(tmp_path / "gated.safetensors", gated, network=name, example=EXAMPLE)
    loaded = lf.load(tmp_path / "gated.safetensors", trust=name).eval()
    assert torch.equal(loaded(noise(dtype=torch.float32)), gated(noise(dtype=torch.float32)))


def detr(m: Calls, x: Tensor) -> Tensor:
    """As transformers writes it."""
    weight, bias = m.norm.weight.reshape(1, -1, 1, 1), m.norm.bias.reshape(1, -1, 1, 1)
    var, mean = m.norm.running_var.reshape(1, -1, 1, 1), m.norm.running_mean.reshape(1, -1, 1, 1)
    scale = weight * (var + 1e-5).rsqrt()
    return m.b(m.act(m.a(x)) * scale + (bias - mean * scale))


def detectron(m: Calls, x: Tensor) -> Tensor:
    scale = m.norm.weight / torch.sqrt(m.norm.running_var + 1e-5)
    shift = m.norm.bias - m.norm.running_mean * scale
    return m.b(m.act(m.a(x)) * scale[None, :, None, None] + shift[None, :, None, None])


@pytest.mark.parametrize("forward", [detr, detectron])
def test_however_it_is_written(forward):
    network = Calls(forward, a=conv(WIDTH, 6), act=removed_activation(), norm=frozen(6), b=conv(6, 5, padding=0))
    network = network.double().eval()
    result = fold(network, DOUBLE)
    assert [merge.layers for merge in result.folded] == [("a", "b")]
    assert difference(result.model(noise()), network(noise())) <= 1e-9
