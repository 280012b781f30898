"""Small networks with the structures that export has to get right."""

import torch
from torch import nn


class Bottleneck(nn.Module):
    """Inverted residual: 1x1, depthwise 3x3, 1x1, each with BatchNorm, and the skip."""

    def __init__(self, width: int):
        super().__init__()
        self.body = nn.Sequential(
            *[nn.Conv2d(width, 2 * width, 1, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU6()],
            *[nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width), nn.BatchNorm2d(2 * width), nn.ReLU6()],
            *[nn.Conv2d(2 * width, width, 1, bias=False), nn.BatchNorm2d(width)],
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


class Residual(nn.Module):
    """Two inverted residuals between a stem and a head; input [N,3,12,12], output [N,10]."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.blocks = nn.Sequential(Bottleneck(8), nn.Identity(), Bottleneck(8))
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.dropout(self.blocks(self.stem(x)).mean((2, 3))))


def randomised(model: nn.Module) -> nn.Module:
    """``model`` in eval mode, with BatchNorms as different from the identity as those of a trained network."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                tensor.data.uniform_(0.5, 2, generator=generator)
            for tensor in (module.bias, module.running_mean):
                tensor.data.normal_(0, 0.5, generator=generator)
    return model.eval()
