"""The check that stands between a mistake and a wrong network: nothing that fails it gets out."""

import pytest
import torch
from torch import nn

from layer_folding.errors import CheckError, InputError
from layer_folding.fold import fold
from layer_folding.fold.algebra.affine_conv import AffineConv
from layer_folding.fold.algebra.layers import is_passthrough
from layer_folding.fold.merge import composing
from tests.fold.merge.test_rewriting import pair
from tests.fold.networks import (
    EXAMPLE,
    WIDTH,
    Calls,
    conv,
    removed_activation,
)  # fmt: skip


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_a_wrong_merge_does_not_get_out(part, monkeypatch):
    """The self-check is what stands between a mistake in the algebra and a wrong network."""

    def wrong(self: AffineConv, after: AffineConv) -> AffineConv:
        value = then(self, after)
        getattr(value, part).view(-1)[0] += 1e-6
        return value

    then = AffineConv.then
    monkeypatch.setattr(AffineConv, "then", wrong)
    with pytest.raises(CheckError, match=r"^merging 0, 2 is off by .*e-0[67] .*; please report this$"):
        fold(pair().double(), EXAMPLE.double())


def test_a_mistake_that_only_other_statistics_show_is_found(monkeypatch):
    """Fresh BatchNorms are nearly the identity: leaving one out shows only with randomised statistics."""
    network = nn.Sequential(
        conv(WIDTH, 6), removed_activation(), conv(6, 5, padding=0), nn.BatchNorm2d(5, eps=0)
    ).eval()
    assert fold(network, EXAMPLE).folded
    monkeypatch.setattr(composing, "is_passthrough", lambda node: is_passthrough(node) or node.target == "3")
    with pytest.raises(CheckError, match="merging 0, 2 is off"):
        fold(network, EXAMPLE)


def test_an_output_that_is_not_finite_cannot_be_checked():
    network = nn.Sequential(*pair(), nn.BatchNorm2d(5)).eval()
    network[-1].running_mean.fill_(torch.inf)
    with pytest.raises(CheckError, match="not finite, so that folding cannot be checked"):
        fold(network, EXAMPLE)


def test_an_overflow_in_the_precision_of_the_network_is_called_that():
    network = nn.Sequential(*pair(), conv(5, 4), nn.ReLU()).eval()
    network[3].weight.data.fill_(1e38)
    network[3].bias.data.fill_(3e38)
    with pytest.raises(CheckError, match=r"Sequential in torch.float32 for random input is not finite"):
        fold(network, EXAMPLE)


def test_a_write_to_a_view_of_what_is_read_later_is_refused():
    def forward(m: Calls, x):
        y = m.first(x)
        y[:, 0].mul_(2)
        return m.second(y)

    with pytest.raises(InputError, match=r"mul_ overwrites its input, and first .Conv2d. shares memory.*out of place"):
        fold(Calls(forward, first=conv(WIDTH, 6), second=conv(6, 5, padding=0)).eval(), EXAMPLE)
