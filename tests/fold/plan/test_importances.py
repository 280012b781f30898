import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from layer_folding.errors import CheckError
from layer_folding.fold.plan.importances import from_gates, more, one_shot
from tests.fold.networks import conv


def network() -> nn.Sequential:
    """Activation "1" sees only values above 0 and so does nothing; "3" decides the class."""
    torch.manual_seed(0)
    first, second, last = conv(1, 3, 1), conv(3, 4, 1), conv(4, 2, 1)
    with torch.no_grad():
        first.weight.abs_()
        first.bias.fill_(1)
        second.bias.copy_(-second.weight.sum((1, 2, 3)))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last, head).eval()


def test_one_shot_finds_the_activation_that_does_nothing():
    model, x = network(), torch.rand(50, 1, 6, 6)
    with torch.no_grad():
        labels = model(x).argmax(1)
        bare = nn.Sequential(*(nn.Identity() if i == 3 else layer for i, layer in enumerate(model)))
        change = (F.cross_entropy(bare(x), labels) - F.cross_entropy(model(x), labels)).item()
    calls = []
    losses = one_shot(model, x, labels, [("1",), ("3",), ("1", "3")], lambda: calls.append(1)).losses
    assert losses["1",] == pytest.approx(0, abs=1e-6)
    assert losses["3",] == pytest.approx(max(change, 0), abs=1e-5)
    assert losses["1", "3"] == pytest.approx(losses["3",], abs=1e-5)
    assert len(calls) == 3


def test_statistics_are_those_of_the_images():
    """With statistics taken anew, wrong ones in the network change nothing."""
    torch.manual_seed(1)
    norm = nn.BatchNorm2d(3)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = nn.Sequential(conv(1, 3, 1), norm, nn.ReLU(), conv(3, 2, 1), head).eval()
    x, labels = torch.rand(300, 1, 6, 6), torch.randint(2, (300,))
    losses = one_shot(model, x, labels, [("2",)], lambda: None)
    norm.running_mean.fill_(3)
    norm.running_var.fill_(7)
    assert one_shot(model, x, labels, [("2",)], lambda: None) == losses
    assert norm.running_mean[0] == 3 and not norm.training


def test_gates_lose_how_far_they_are_from_open():
    importance = from_gates({"a": 0.75, "b": 2.0}, [("a",), ("b",), ("a", "b"), ("c",)])
    assert importance.losses == {("a",): 0.25, ("b",): 0.0, ("a", "b"): 0.25, ("c",): 1.0}


@pytest.mark.parametrize("where", ["images", "weights"])
def test_what_is_no_number_is_no_importance(where):
    model, x = network(), torch.rand(20, 1, 6, 6)
    if where == "images":
        x[3] = torch.nan
    else:
        model[0].weight.data[0] = torch.inf
    with pytest.raises(CheckError, match="cross entropy on these images is nan"):
        one_shot(model, x, torch.zeros(20, dtype=torch.int64), [("1",)], lambda: None)
    assert math.isnan(more(math.nan, 0.5)) and more(0.25, 0.5) == 0 and more(0.75, 0.5) == 0.25
    with pytest.raises(CheckError, match="without a b the loss is nan"):
        from_gates({"a": math.nan}, [("a", "b")])
