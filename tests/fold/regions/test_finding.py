"""What folds and what does not, each refusal with its reason; the function never changes."""

import operator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from torch import nn

from layer_folding.fold import fold, scan
from layer_folding.fold.graph.tracing import trace
from layer_folding.fold.models import build
from layer_folding.fold.regions.finding import foldable_activations, hoisted_regions
from tests.fold.networks import (
    EXAMPLE,
    WIDTH,
    Calls,
    Skip,
    activations,
    conv,
    difference,
    noise,
    random_networks,
    removed_activation,
)  # fmt: skip

DOUBLE = EXAMPLE.double()


def folded(network: nn.Module) -> tuple[list[tuple[str, ...]], dict[str, str]]:
    """The merged layers and the reasons for the others; what is merged must be exact."""
    network = network.double().eval()
    result = fold(network, DOUBLE)
    assert difference(result.model(noise()), network(noise())) <= 1e-9
    return [merge.layers for merge in result.folded], {entry.layer: entry.reason for entry in result.skipped}


def between(module: nn.Module | None = None, function=None, **second) -> nn.Module:
    """Two layers that would fold, with something in between."""
    second = conv(6, 5, **{"padding": 0, **second})
    if module is None:
        return Calls(lambda m, x: m.b(function(m.a(x))), a=conv(WIDTH, 6), b=second)
    return nn.Sequential(conv(WIDTH, 6), module, second)


@pytest.mark.parametrize(
    "network",
    [
        between(removed_activation()),
        between(nn.Identity()),
        between(nn.BatchNorm2d(6)),
        between(nn.BatchNorm2d(6, affine=False)),
        between(nn.Dropout2d()),
        between(nn.ZeroPad2d(-1)),
        between(function=lambda x: F.pad(x, (0, 0, -1, -2))),
        between(function=lambda x: x[:, :, ::2]),
        between(function=lambda x: x + x),
        between(function=lambda x: F.dropout(x, training=False)),
    ],
    ids=["removed", "Identity", "BatchNorm", "no affine", "Dropout", "crop", "F.pad", "slice", "x + x", "F.dropout"],
)
def test_what_may_be_between_two_layers(network):
    assert [len(layers) for layers in folded(network)[0]] == [2]


def test_channels_that_are_padded_with_zeros_may_be_between():
    network = Calls(lambda m, x: m.b(F.pad(m.a(x), (0, 0, 0, 0, 1, 2))), a=conv(WIDTH, 6), b=conv(9, 5, padding=0))
    assert folded(network)[0] == [("a", "b")]


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (between(nn.ReLU()), "the activation 1 (ReLU) comes before it"),
        (between(nn.Softmax(1)), "1 (Softmax) is not linear"),
        (between(nn.MaxPool2d(2)), "1 (MaxPool2d) is not linear"),
        (between(nn.InstanceNorm2d(6)), "1 (InstanceNorm2d) is not linear"),
        (between(nn.BatchNorm2d(6, track_running_stats=False)),
         "1 (BatchNorm2d) has no running statistics, so it is not a fixed affine map"),
        (between(nn.ReflectionPad2d(1)), "1 (ReflectionPad2d) is not linear"),
        (between(nn.ConstantPad2d(1, 0.5)), "1 (ConstantPad2d) pads with 0.5, not with zero"),
        (between(nn.Identity(), padding=1),
         "2 (Conv2d) pads inside the region, so merging is wrong at the borders; hoist_padding first"),
        (between(nn.Identity(), padding=1, padding_mode="reflect"),
         "2 (Conv2d) pads by reflect, which no merged kernel reproduces"),
        (between(nn.Identity(), padding=1, padding_mode="replicate"),
         "2 (Conv2d) pads by replicate, which no merged kernel reproduces"),
        (between(nn.Identity(), padding=1, padding_mode="circular"),
         "2 (Conv2d) pads by circular, which no merged kernel reproduces"),
        (nn.Sequential(conv(WIDTH, 6, padding_mode="circular"), conv(6, 5, padding=0)),
         "0 (Conv2d) pads by circular, which no merged kernel reproduces"),
        (nn.Sequential(conv(WIDTH, 6), nn.ConvTranspose2d(6, 5, 2)),
         "1 (ConvTranspose2d): a transposed convolution merges with pointwise layers only"),
        (nn.Sequential(nn.Conv2d(WIDTH, 6, 1), nn.ConvTranspose2d(6, 5, 2)),
         "1 (ConvTranspose2d) spreads the bias of the layers before it unevenly at the borders"),
        (nn.Sequential(conv(WIDTH, 2), conv(2, WIDTH, 1)),
         "the 2 channels of 0 (Conv2d) are a bottleneck that merging would undo"),
        (nn.Sequential(conv(WIDTH, 6), removed_activation(), conv(6, 6, padding=0), conv(6, 12, padding=0)),
         "no activation was removed after 2 (Conv2d), and merging would cost 1.6x the MACs"),
    ],
)  # fmt: skip
def test_refusals(network, reason):
    layers, reasons = folded(network)
    assert reason in reasons.values()
    assert sum(map(len, layers)) in (0, 2)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"), "pad pads by reflect"),
        (lambda x: F.pad(x, (1, 1, 1, 1), value=2.0), "pad pads with 2.0, not with zero"),
        (lambda x: x[:, :, 1:], "getitem takes a part of the tensor"),
        (lambda x: x[:1], "getitem takes a part of the tensor"),
        (
            lambda x: torch.cat([x[:, :3, ::2], x[:, 3:, ::2]], 1),
            "cat concatenates, and no activation was removed right before it",
        ),
        (lambda x: x + x.mean((2, 3), keepdim=True), "add is not linear"),
        (lambda x: torch.add(x, x, alpha=2), "add is not linear"),
        (lambda x: operator.matmul(x, x.transpose(2, 3)), "matmul is not linear"),
    ],
)
def test_refused_functions(function, name):
    layers, reasons = folded(between(function=function))
    assert layers == []
    assert reasons["b"] == name


def test_shared_weights_are_left_alone():
    layer = conv(WIDTH, WIDTH, padding=0)
    layers, reasons = folded(nn.Sequential(layer, removed_activation(), layer))
    assert layers == []
    assert reasons == {"0": "0 (Conv2d) shares its weights with another call"}


def test_weights_shared_by_two_modules_are_left_alone():
    first, second = conv(WIDTH, WIDTH, padding=0), conv(WIDTH, WIDTH, padding=0)
    second.weight = first.weight
    layers, reasons = folded(nn.Sequential(first, removed_activation(), second))
    assert layers == []
    assert reasons["2"] == "2 (Conv2d) shares its weights with another call"


def test_a_value_that_several_layers_read_is_computed_once():
    network = Calls(
        lambda m, x: m.c(y := m.a(x)).relu() + m.d(y).tanh(),
        a=conv(WIDTH, 6), c=conv(6, 5, padding=0), d=conv(6, 5, padding=0),
    )  # fmt: skip
    layers, reasons = folded(network)
    assert layers == []
    assert reasons == dict.fromkeys("cd", "a (Conv2d) is read in several places, and is computed once")


def test_branches_that_meet_again_are_one_region():
    network = Skip(nn.Sequential(conv(WIDTH, 6), removed_activation(), conv(6, WIDTH, 1)), conv(WIDTH, WIDTH, 1))
    assert folded(network)[0] == [("body.0", "body.2", "shortcut")]


def test_sums_at_different_strides_are_left_alone():
    """The two branches give one size, but by other strides: a 1-pixel image."""
    network = Calls(lambda m, x: m.a(x) + m.b(x), a=conv(WIDTH, 6, 15, 16), b=conv(WIDTH, 6, 15, 17))
    layers, reasons = folded(network)
    assert layers == []
    assert reasons == {}


def test_padding_after_a_layer_without_bias_that_reads_no_border():
    """1x1, no bias: where the next layer pads zeros, this one would have given zeros."""
    pointwise = nn.Conv2d(WIDTH, 6, 1, bias=False)
    assert folded(nn.Sequential(pointwise, removed_activation(), conv(6, 5)))[0] == [("0", "2")]
    wide = conv(WIDTH, 6, bias=False)
    assert folded(nn.Sequential(wide, removed_activation(), conv(6, 5)))[0] == []
    skip = Skip(nn.Conv2d(WIDTH, WIDTH, 1, bias=False), nn.Conv2d(WIDTH, WIDTH, 1))  # the bias is in one branch
    assert folded(nn.Sequential(skip, conv(WIDTH, 5)))[0] == [("0.body", "0.shortcut")]
    strided = nn.Conv2d(WIDTH, 6, 1, stride=2, bias=False)
    assert folded(nn.Sequential(strided, removed_activation(), conv(6, 5)))[0] == [("0", "2")]


def test_padding_that_a_dilated_layer_steps_over():
    """The second layer reads pixels -2, 0, 2, ...: the first gives zero at -2, and not at -1, where nobody reads."""
    first = nn.Conv2d(WIDTH, 6, (1, 2), padding=(0, 1), dilation=(1, 2), bias=False)
    second = nn.Conv2d(6, 5, (1, 2), stride=(1, 2), padding=(0, 2), dilation=(1, 2))
    assert folded(nn.Sequential(first, second))[0] == [("0", "1")]


def test_hoisting_is_not_named_as_the_remedy_where_it_is_none():
    network = nn.Sequential(conv(WIDTH, 2), conv(2, WIDTH))
    assert folded(network)[1] == {"1": "the 2 channels of 0 (Conv2d) are a bottleneck that merging would undo"}


def test_the_activations_worth_a_gate():
    """Of a CIFAR ResNet: those inside the blocks. Those after a sum stand before two readers, and fold nothing."""
    network = build("resnet20", 10)
    traced = trace(network, torch.zeros(1, 3, 32, 32))
    worth = [node.target for node in foldable_activations(traced)]
    assert worth == [f"layer{stage}.{block}.relu" for stage in (1, 2, 3) for block in range(3)]


@settings(max_examples=40, deadline=None)
@given(random_networks())
def test_regions_are_disjoint_and_every_layer_is_accounted_for(network):
    traced = trace(network, EXAMPLE)
    regions = hoisted_regions(traced)
    layers = [node.target for region in regions.found for node in region.layers]
    assert len(layers) == len(set(layers))
    assert not set(layers) & {entry.layer for entry in regions.skipped}
    assert all(entry.reason and entry.code for entry in regions.skipped)
    for region in regions.found:
        assert len(region.layers) > 1
        assert region.anchor not in region.nodes
        assert region.nodes[-1] is region.output


@settings(max_examples=30, deadline=None)
@given(random_networks())
def test_scan_names_only_activations_of_the_network(network):
    names = {*activations(network), *(name for name, module in network.named_modules() if hasattr(module, "removed"))}
    assert all(set(candidate.activations) <= names for candidate in scan(network, EXAMPLE).candidates)
