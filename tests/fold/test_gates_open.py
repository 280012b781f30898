"""Whatever the rate of the gates, a larger lambda removes no fewer activations, in a training loop that is not ours."""

import copy
import functools
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from layer_folding.fold import depth_penalty, gates, linearize
from layer_folding.fold.gating import is_open
from tests.fold.networks import Skip

LAMBDAS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
RATES = (0.05, 0.1, 0.2, 0.5, 1.0)


def images() -> tuple[torch.Tensor, torch.Tensor]:
    """Noise, and the classes that a random network sees in it."""
    generator = torch.Generator().manual_seed(0)
    x, first, second = (torch.randn(s, generator=generator) for s in ((256, 3, 6, 6), (108, 32), (32, 4)))
    return x, (torch.relu(x.flatten(1) @ first) @ second).argmax(1)


def residual() -> nn.Module:
    def block() -> nn.Module:
        convolutions = (nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(2))
        first, last = ((conv, nn.BatchNorm2d(8)) for conv in convolutions)
        return nn.Sequential(Skip(nn.Sequential(*first, nn.ReLU(), *last)), nn.ReLU())

    stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
    return nn.Sequential(stem, *(block() for _ in range(3)), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


def perceptron() -> nn.Module:
    widths = (108, 24, 24, 24, 24)
    hidden = [(nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU()) for a, b in itertools.pairwise(widths)]
    return nn.Sequential(nn.Flatten(), *(layer for layers in hidden for layer in layers), nn.Linear(24, 4))


@functools.cache
def trained(make) -> nn.Module:
    torch.manual_seed(0)
    model = make()
    steps(model, [{"params": model.parameters(), "lr": 0.05}], 8, lambda: 0.0)
    return model


def steps(model: nn.Module, groups: list[dict], epochs: int, penalty) -> None:
    x, y = images()
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    generator = torch.Generator().manual_seed(1)
    for _ in range(epochs):
        for batch in torch.randperm(len(x), generator=generator).split(32):
            loss = F.cross_entropy(model(x[batch]), y[batch]) + penalty()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def removed(make, strength: float, rate: float) -> int:
    model = linearize(copy.deepcopy(trained(make)), images()[0][:2], gate="all" if make is perceptron else "foldable")
    alphas = [gate.alpha for gate in gates(model).values()]
    weights = [p for name, p in model.named_parameters() if not name.endswith(".alpha")]
    groups = [{"params": weights, "lr": 0.02}, {"params": alphas, "lr": rate}]
    steps(model, groups, 6, lambda: strength * depth_penalty(model))
    return sum(map(is_open, gates(model).values()))


@pytest.mark.slow
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("make", [residual, perceptron])
def test_more_lambda_removes_no_less(make, rate):
    counts = [removed(make, strength, rate) for strength in LAMBDAS]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1] == len(gates(linearize(make(), images()[0][:2], gate="all"))) - 4 * (make is residual)
