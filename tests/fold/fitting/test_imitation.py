"""How much of the outputs of an original network another network gives."""

import math

import pytest
import torch
from torch import Tensor, nn

from layer_folding.errors import CheckError, InputError
from layer_folding.fold.fitting.imitation import imitation_of
from tests.fold.networks import Calls

IMAGES = torch.randn(40, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def network(give) -> nn.Module:
    torch.manual_seed(0)
    return Calls(lambda m, x: give(m.conv(x)), conv=nn.Conv2d(3, 4, 3)).eval()


def heads(y: Tensor, *, factor: float = 1.0, shift: float = 0.0) -> dict[str, Tensor]:
    return {"boxes": factor * y.flatten(2) + shift, "objects": (factor * y + shift).mean((2, 3))}


def accuracy(original: nn.Module, other: nn.Module) -> float:
    return imitation_of(original, IMAGES).accuracy(other, IMAGES.split(16))


@pytest.mark.parametrize("give", [lambda y: y, heads, lambda y: (y[:, :1],), lambda y: [y.mean((2, 3))]])
def test_the_same_network_has_all_of_it(give):
    assert accuracy(network(give), network(give)) == 1.0


def test_the_accuracy_of_scores_for_pixels_is_the_share_with_the_same_class():
    original, other = network(lambda y: y), network(lambda y: torch.cat([y[:, :, :2], y[:, [1, 0, 2, 3], 2:]], 2))
    with torch.no_grad():
        same = original(IMAGES).argmax(1) == other(IMAGES).argmax(1)
    found = imitation_of(original, IMAGES)
    assert accuracy(original, other) == same.double().mean().item() < 1
    assert (found.classes, found.guessing) == (4, math.log(4)) and "share of pixels" in found.meaning


def test_the_accuracy_of_other_outputs_is_the_share_of_their_variance():
    original = network(heads)
    assert accuracy(original, network(lambda y: heads(y, factor=0.9))) > 0.97
    less = [accuracy(original, network(lambda y, shift=shift: heads(y, shift=shift))) for shift in (0.05, 0.1, 0.15)]
    assert 1 > less[0] > less[1] > less[2] > 0
    assert accuracy(original, network(lambda y: heads(y, factor=-1.0))) == 0.0
    found = imitation_of(original, IMAGES)
    assert (found.classes, found.guessing) == (None, 1.0) and "variance" in found.meaning


def test_the_mean_of_each_channel_has_none_of_it():
    original = network(lambda y: (y[:, :1],))
    with torch.no_grad():
        mean = original(IMAGES)[0].mean()
    assert accuracy(original, network(lambda y: (y[:, :1] * 0 + mean,))) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("give", [lambda y: y.argmax(1), lambda y: y.sum(), lambda y: {"n": len(y)}])
def test_outputs_that_cannot_be_compared_are_refused(give):
    with pytest.raises(InputError, match="the network gives no tensors of floating-point numbers"):
        imitation_of(network(give), IMAGES)


def test_what_is_not_finite_is_refused():
    with pytest.raises(InputError, match="the network gives NaN or infinity"):
        imitation_of(network(lambda y: y / 0), IMAGES)
    with pytest.raises(CheckError, match="the network gives NaN or infinity for test images"):
        accuracy(network(heads), network(lambda y: heads(y, shift=math.nan)))


def test_images_are_few_at_a_time_where_outputs_are_large():
    small, large = (imitation_of(network(give), IMAGES).batch for give in (heads, lambda y: y.repeat(1, 1, 75, 75)))
    assert small > 100 and large < 50
