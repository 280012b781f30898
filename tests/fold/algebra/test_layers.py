"""What counts as affine: each kind of layer and operation, alone between two layers and in whole blocks."""

import operator

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from layer_folding.fold import fold, hoist_padding, scan
from layer_folding.fold.graph.tracing import trace
from tests.fold.networks import (
    EXAMPLE,
    WIDTH,
    Calls,
    Skip,
    conv,
    difference,
    noise,
    randomised,
    removed_activation,
)  # fmt: skip

DOUBLE = EXAMPLE.double()
TOKENS = torch.randn(2, 7, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def folded(network: nn.Module, example: torch.Tensor = DOUBLE) -> list[tuple[str, ...]]:
    """The merged layers; what is merged must be exact, and a second fold must find nothing."""
    network = randomised(network).double().eval()
    x = torch.randn_like(example)
    result = fold(network, example)
    assert difference(result.model(x), network(x)) <= 1e-9
    assert fold(result.model, example).folded == []
    return [merge.layers for merge in result.folded]


def between(function, channels: int = 6, **parameters: torch.Tensor) -> nn.Module:
    """``function`` between two layers, with a removed activation before it."""
    parts = {"a": conv(WIDTH, 6), "act": removed_activation(), "b": conv(channels, 5, padding=0)}
    network = Calls(lambda m, x: m.b(function(m, m.act(m.a(x)))), **parts)
    for name, value in parameters.items():
        setattr(network, name, nn.Parameter(value))
    return network


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: x * 2,
        lambda m, x: 0.5 * x + 1,
        lambda m, x: 1 - x,
        lambda m, x: x - 3,
        lambda m, x: x / 4,
        lambda m, x: -x,
        lambda m, x: x.mul(2).add(1).sub(3).div(2).neg(),
        lambda m, x: torch.add(torch.mul(x, 2), 1),
        lambda m, x: x.mul_(2),
        lambda m, x: x.contiguous(),
    ],
)
def test_numbers(function):
    assert folded(between(function)) == [("a", "b")]


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: x * m.scale,
        lambda m, x: m.scale * x + m.shift,
        lambda m, x: m.shift - x,
        lambda m, x: x / (m.scale),
        lambda m, x: x.mul_(m.scale).add_(m.shift),
    ],
)
def test_one_parameter_per_channel(function):
    shape = (6, 1, 1)
    network = between(function, scale=torch.rand(shape) + 1, shift=torch.randn(1, *shape))
    assert folded(network) == [("a", "b")]
    names = dict(fold(network.double().eval(), DOUBLE).model.named_parameters())
    assert not any("scale" in name for name in names)  # merged, so gone


def test_a_parameter_for_all_channels():
    assert folded(between(lambda m, x: x * m.scale, scale=torch.tensor([2.0]))) == [("a", "b")]


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda m, x: x * m.scale, "mul has a constant that is not one number per channel"),
        (lambda m, x: 2 / (x + 9), "truediv is not linear"),
        (lambda m, x: x * x, "mul is not linear"),
        (lambda m, x: x.mul(x.shape[1]), "mul is not linear"),
        (lambda m, x: torch.sub(x, 1, alpha=2), "sub is not linear"),
        (lambda m, x: operator.mul(x, torch.sigmoid(x)), "mul is not linear"),
    ],
)
def test_arithmetic_that_stays(function, reason):
    network = between(function, scale=torch.rand(1, 1, 15, 13)).double().eval()
    result = fold(network, DOUBLE)
    assert result.folded == []
    assert {entry.layer: entry.reason for entry in result.skipped}["b"] == reason


def test_a_scale_that_is_used_twice_stays():
    network = between(lambda m, x: x * m.scale + m.scale, scale=torch.rand(6, 1, 1)).double().eval()
    (skipped,) = fold(network, DOUBLE).skipped
    assert skipped.reason == "add shares its weights with another call"


def test_functional_batch_norm():
    def forward(m, x):
        return m.b(F.batch_norm(m.a(x), m.n.running_mean, m.n.running_var, m.n.weight, m.n.bias, eps=m.n.eps))

    network = Calls(forward, a=conv(WIDTH, 6), b=conv(6, 5, padding=0), n=nn.BatchNorm2d(6, eps=0.1))
    assert folded(network) == [("a", "b")]
    assert not any(name.startswith("n.") for name in fold(network.double().eval(), DOUBLE).model.state_dict())
    by_batch = between(lambda m, x: F.batch_norm(x, None, None, training=True)).double().eval()
    assert fold(by_batch, DOUBLE).skipped[-1].reason == "batch_norm is not a fixed affine map"


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: x[:, 1:5],
        lambda m, x: x[:, :4].contiguous(),
        lambda m, x: x[:, ::2],
        lambda m, x: x.chunk(2, dim=1)[1],
        lambda m, x: torch.split(x, [1, 4, 1], dim=1)[1],
        lambda m, x: x.split(4, 1)[0],
    ],
)
def test_some_of_the_channels(function):
    channels = function(None, torch.zeros(1, 6, 1, 1)).shape[1]
    assert folded(between(function, channels)) == [("a", "b")]


def shuffle(x: torch.Tensor, groups: int) -> torch.Tensor:
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


@pytest.mark.parametrize("groups", [2, 3])
def test_channel_shuffle(groups):
    for function in (lambda m, x: shuffle(x, groups), lambda m, x: F.channel_shuffle(x, groups)):
        network = between(function).double().eval()
        traced = trace(network, DOUBLE)
        x = noise()
        assert torch.equal(traced(x), network(x))
    assert folded(between(lambda m, x: shuffle(x, groups))) == [("a", "b")]
    assert folded(nn.Sequential(conv(WIDTH, 6), nn.ChannelShuffle(groups), conv(6, 5, padding=0))) == [("0", "2")]


def test_concatenation_of_branches_of_one_value():
    def forward(m, x):
        return m.last(torch.cat([m.act1(m.a(x)), x, m.act2(m.b(x))], dim=1))

    network = Calls(
        forward, a=conv(WIDTH, 6, bias=False), b=conv(WIDTH, 3, 1), last=conv(9 + WIDTH, 5, padding=0),
        act1=removed_activation(), act2=removed_activation(),
    )  # fmt: skip
    assert folded(network) == [("a", "b", "last")]
    network.act1, network.act2 = nn.Identity(), nn.Identity()
    assert folded(network) == []  # nobody asked for it
    reasons = {entry.reason for entry in fold(network.double().eval(), DOUBLE).skipped}
    assert reasons == {"cat concatenates, and no activation was removed right before it"}


def test_concatenation_of_different_anchors_or_not_of_channels_stays():
    network = Calls(
        lambda m, x: m.last(torch.cat([m.act(m.a(x)), x.relu()], 1)),
        a=conv(WIDTH, 6), act=removed_activation(), last=conv(6 + WIDTH, 5, padding=0),
    )  # fmt: skip
    assert folded(network) == []
    network = Calls(
        lambda m, x: m.last(torch.cat([m.act(m.a(x)), m.b(x)], dim=2)),
        a=conv(WIDTH, 6), b=conv(WIDTH, 6), act=removed_activation(), last=conv(6, 5, padding=0),
    )  # fmt: skip
    assert folded(network) == []


def test_a_dense_block():
    """Each layer reads all before it; without activations all is one layer per output of the last concatenation."""

    def forward(m, x):
        x1 = torch.cat([x, m.act1(m.a(x))], 1)
        x2 = torch.cat([x1, m.act2(m.b(x1))], 1)
        return m.c(x2).relu()

    network = Calls(
        forward, a=conv(WIDTH, 3), b=conv(WIDTH + 3, 2), c=conv(WIDTH + 5, 4, 1),
        act1=removed_activation(), act2=removed_activation(),
    )  # fmt: skip
    network = randomised(network).double().eval()
    hard, report = hoist_padding(network, DOUBLE)
    assert len(report) == 1
    result = fold(hard, DOUBLE)
    assert [merge.layers for merge in result.folded] == [("a", "b", "c")]
    assert difference(result.model(noise()), hard(noise())) <= 1e-9


def test_shuffle_units_fold_as_a_whole():
    """ShuffleNet V2: split the channels, work on one half, concatenate, shuffle."""

    def forward(m, x):
        kept, worked = x.chunk(2, dim=1)
        return m.last(shuffle(torch.cat([kept, m.act(m.b(m.a(worked)))], 1), 2))

    network = Calls(
        forward, a=conv(2, 4, 1, bias=False), b=conv(4, 2, bias=False), act=removed_activation(), last=conv(4, 5, 1)
    )
    assert folded(network) == [("a", "b", "last")]


@pytest.mark.parametrize("example", [TOKENS, TOKENS[:, 0], TOKENS.unsqueeze(1)], ids=["rank 3", "rank 2", "rank 4"])
def test_linear_layers_on_the_last_axis(example):
    network = nn.Sequential(nn.Linear(WIDTH, 16), removed_activation(), nn.Dropout(), nn.Linear(16, WIDTH, bias=False))
    assert folded(network, example) == [("0", "3")]
    assert folded(Skip(network), example) == [("body.0", "body.3")]


def test_the_mlp_of_a_transformer_becomes_one_square_layer():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.gamma = nn.LayerNorm(WIDTH), nn.Parameter(torch.rand(WIDTH))
            self.fc1, self.act, self.fc2 = nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)

        def forward(self, x):
            return x + self.gamma * self.fc2(self.act(self.fc1(self.norm(x))))

    network = Block().double().eval()
    (candidate,) = scan(network, TOKENS).candidates
    assert (candidate.activations, candidate.kernel) == (("act",), ())
    assert candidate.macs == (7 * 8 * WIDTH**2, 7 * WIDTH**2)
    network.act = removed_activation()
    result = fold(network, TOKENS)
    (layer,) = [module for module in result.model.modules() if isinstance(module, nn.Linear)]
    assert layer.weight.shape == (WIDTH, WIDTH)
    assert "gamma" not in result.model.state_dict()
    assert difference(result.model(TOKENS), network(TOKENS)) <= 1e-9


def test_a_linear_layer_across_the_image_is_another_axis():
    network = nn.Sequential(conv(WIDTH, 6), removed_activation(), nn.Linear(13, 7)).double().eval()
    result = fold(network, DOUBLE)
    assert result.folded == []
    assert result.skipped[-1].reason == "2 (Linear) works on another axis of 1 (Identity) than the layers before it"


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv3d])
def test_subclasses_that_only_add_a_constructor_are_the_layer(kind):
    class Mine(kind):
        def __init__(self, a, b):
            super().__init__(a, b, 2)

    example = torch.zeros(1, 2, *(5,) * (1 if kind is nn.Conv1d else 3), dtype=torch.float64)
    assert folded(nn.Sequential(Mine(2, 3), removed_activation(), Mine(3, 2)), example) == [("0", "2")]


class Swish(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x)


def swish(x):
    return x * torch.sigmoid(x)


def test_activations_that_the_caller_names():
    by_class = nn.Sequential(conv(WIDTH, 6), Swish(), conv(6, 5))
    assert scan(by_class, EXAMPLE).candidates == []
    assert [c.activations for c in scan(by_class, EXAMPLE, activations=[Swish]).candidates] == [("1",)]

    class Function(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = conv(WIDTH, 6), conv(6, 5)

        def forward(self, x):
            return self.b(swish(self.a(x)))

    assert scan(Function(), EXAMPLE).candidates == []
    assert [c.activations for c in scan(Function(), EXAMPLE, activations=[swish]).candidates] == [("swish",)]
