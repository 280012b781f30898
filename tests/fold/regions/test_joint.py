import torch
from torch import nn

from layer_folding.fold.graph.tracing import trace
from layer_folding.fold.models import build
from layer_folding.fold.regions.finding import foldable_activations
from layer_folding.fold.regions.joint import joint_activations


def groups(model: nn.Module, example: torch.Tensor) -> set[tuple[str, ...]]:
    traced = trace(model, example)
    found = joint_activations(traced, foldable_activations(traced))
    return {tuple(str(node.target) for node in group) for group in found}


def test_the_activations_of_an_inverted_residual_go_together():
    pairs = {(f"blocks.{i}.expand.act", f"blocks.{i}.depthwise.act") for i in range(6)}
    assert groups(build("mobilenetv2-digits", 10, 1), torch.zeros(1, 1, 32, 32)) == {*pairs, ("head.act",)}


def test_the_activation_inside_a_residual_block_goes_alone():
    found = groups(build("resnet20", 10), torch.zeros(1, 3, 32, 32))
    assert found == {(f"layer{stage}.{block}.relu",) for stage in (1, 2, 3) for block in (0, 1, 2)}


def test_branches_of_a_sum_go_together():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.last = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1)
            self.left, self.right = nn.ReLU(), nn.ReLU()

        def forward(self, x):
            return self.last(self.left(self.a(x)) + self.right(self.b(x)))

    assert groups(Branches(), torch.zeros(1, 4, 8, 8)) == {("left", "right")}
