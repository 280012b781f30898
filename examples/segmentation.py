"""Layer folding where the network gives an image, not a class: torchvision's LR-ASPP; five seconds on a CPU.

python examples/segmentation.py
"""

import torch
import torch.nn.functional as F
from plain import optimizer
from torch import Tensor, nn
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

import layer_folding as lf


def scenes(count: int) -> tuple[Tensor, Tensor]:
    """Images [N, 3, 64, 64] with a bright square in noise, and the class of each pixel [N, 64, 64]: 1 in the square."""
    classes = torch.zeros(count, 64, 64, dtype=torch.long)
    for scene, (x, y) in zip(classes, torch.randint(0, 40, (count, 2)).tolist(), strict=True):
        scene[y : y + 24, x : x + 24] = 1
    return torch.rand(count, 3, 64, 64) + classes[:, None], classes


def train(model: nn.Module, steps: int, lr: float, penalty: float = 0.0) -> None:
    """Your training loop, with the penalty where there are gates."""
    optimiser = optimizer(model, lr)
    model.train()
    for _ in range(steps):
        images, classes = scenes(8)
        loss = F.cross_entropy(
            model(images)["out"], classes
        )  # torchvision's networks for segmentation give a dictionary
        if lf.gates(model):
            loss = loss + penalty * lf.depth_penalty(model)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def main(steps: int = 12) -> lf.FoldResult:
    """Learn which activations can go, take them out, fold; the whole network can be traced, its head included."""
    torch.manual_seed(0)
    model = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=2)
    example = torch.rand(1, 3, 64, 64)
    gated = lf.linearize(model, example)
    train(gated, steps, lr=0.05, penalty=1.0)
    print(f"gates      {sum(g.alpha >= 0.9 for g in lf.gates(gated).values())} of {len(lf.gates(gated))} open")
    hard, _ = lf.hoist_padding(lf.harden(gated), example)
    train(hard, steps, lr=0.01)
    result = lf.fold(hard.eval(), example)

    before, after = lf.cost(model, example), lf.cost(result.model, example)
    images, _ = scenes(8)
    with torch.no_grad():
        expected, actual = hard(images)["out"], result.model(images)["out"]
    same = (expected.argmax(1) == actual.argmax(1)).float().mean().item()
    print(f"layers     {before.depth} => {after.depth}, {len(result.folded)} merged, off by {result.max_error:.0e}")
    print(f"pixels     {100 * same:.2f} % of the same class as before folding")
    assert after.depth < before.depth
    assert actual.shape == (8, 2, 64, 64)
    assert same > 0.999
    return result


if __name__ == "__main__":
    main()
