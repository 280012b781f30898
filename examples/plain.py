"""Layer folding in a training loop of your own, here on handwritten digits; ten seconds on a CPU.

python examples/plain.py
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import layer_folding as lf


class Block(nn.Module):
    """x plus an inverted bottleneck of x, which is one convolution once its two activations are removed."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU()),
            *(nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, bias=False), nn.BatchNorm2d(hidden), nn.ReLU()),
            *(nn.Conv2d(hidden, channels, 1, bias=False), nn.BatchNorm2d(channels)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def network() -> nn.Module:
    """Any network that ``torch.fx`` can trace: [N, 1, 8, 8] to [N, 10]."""
    stem = (nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    blocks = (Block(16, 48) for _ in range(3))
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


def digits() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Images [N, 1, 8, 8] of 0..1 and labels [N]: 1400 to train, 397 to test."""
    data = load_digits()
    images, labels = torch.from_numpy(data.images).float().unsqueeze(1) / 16, torch.from_numpy(data.target)
    return (images[:1400], labels[:1400]), (images[1400:], labels[1400:])


def optimizer(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    """Your optimiser. Gates, if there are any, want no weight decay, and larger steps."""
    alphas = [gate.alpha for gate in lf.gates(model).values()]
    weights = [p for name, p in model.named_parameters() if not name.endswith(".alpha")]
    groups = [{"params": weights, "weight_decay": 5e-4}, {"params": alphas, "lr": 10 * lr}]
    return torch.optim.SGD(groups, lr=lr, momentum=0.9)


def train(model: nn.Module, images: Tensor, labels: Tensor, epochs: int, lr: float, penalty: float = 0.0) -> None:
    """Your training loop. All that gates need of it is their penalty in the loss."""
    steps = optimizer(model, lr)
    model.train()
    for _ in range(epochs):
        for index in torch.randperm(len(labels)).split(64):
            loss = F.cross_entropy(model(images[index]), labels[index])
            if lf.gates(model):
                loss = loss + penalty * lf.depth_penalty(model)
            steps.zero_grad()
            loss.backward()
            steps.step()


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Fraction of the images that ``model`` classifies right."""
    model.eval()
    with torch.no_grad():
        return (model(images).argmax(1) == labels).float().mean().item()


def main(epochs: int = 4) -> lf.FoldResult:
    """Train, learn which activations can go, take them out, fine-tune, fold."""
    torch.manual_seed(0)
    learn, test = digits()
    model, example = network(), learn[0][:1]
    train(model, *learn, epochs, lr=0.05)
    print(f"original   {100 * accuracy(model, *test):.1f} %, {lf.depth(model, example)} layers")

    gated = lf.linearize(model, example)  # 1: a copy with a gate on each activation that keeps layers apart
    train(gated, *learn, epochs, lr=0.01, penalty=1.0)  # 2: your loop, with the penalty
    hard, _ = lf.hoist_padding(lf.harden(gated), example)  # 3: open gates become identities; borders change: fine-tune
    train(hard, *learn, epochs, lr=0.01)
    result = lf.fold(hard.eval(), example)  # 4: exact; result.skipped says what did not fold, and why

    print(f"fine-tuned {100 * accuracy(hard, *test):.1f} %")
    print(f"folded     {100 * accuracy(result.model, *test):.1f} %, {lf.depth(result.model, example)} layers")
    return result


if __name__ == "__main__":
    main()
