"""Layers fitted one at a time: the same as `lf.fit` of each of them, at less work."""

import pytest
import torch
from torch import nn

import layer_folding as lf
from layer_folding.fold import fit
from layer_folding.fold.plan.candidates import candidates
from layer_folding.fold.plan.fit_importances import choices_of
from tests.fold.networks import randomised


class Branches(nn.Module):
    """Two branches from one value, a skip around both, and a layer behind."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.left = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 1))
        self.right = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU6(), nn.Conv2d(4, 4, 3, padding=1))
        self.last = nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 3, 2, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return self.last(x + self.left(x) + self.right(x)).mean((2, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_each_fit_loses_what_it_loses_by_itself(dtype):
    torch.manual_seed(0)
    model, images = randomised(Branches()).to(dtype), torch.randn(40, 3, 10, 10, dtype=dtype)
    found = lf.importance(model, images).fits
    choices = choices_of(candidates(model, images[:1]).found, None)
    assert len({choice.activations for choice in choices}) == 3
    for choice in choices:
        try:
            loses = fit(model, images, {choice.activations: choice.shape}, tuned=False).divergence
        except (lf.InputError, lf.CheckError):
            assert choice not in found
        else:
            assert found[choice] == loses
