"""One small network of each kind that export has to bring to TensorRT; input [N, 8, 16, 16]."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.fold.networks import randomised

CHANNELS, PIXELS = 8, 16


class Sum(nn.Module):
    """A residual block: ``body(x) + shortcut(x)``."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None):
        super().__init__()
        self.body, self.shortcut = body, shortcut or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.shortcut(x)


class Concatenation(nn.Module):
    """Branches side by side, as in Inception and DenseNet."""

    def __init__(self, *branches: nn.Module):
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class Excitation(nn.Module):
    """Squeeze-and-excitation: channels are scaled by what their means say."""

    def __init__(self, channels: int):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.weigh = nn.Sequential(nn.Conv2d(channels, 4, 1), nn.ReLU(), nn.Conv2d(4, channels, 1), nn.Hardsigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weigh(self.pool(x))


class Shuffle(nn.Module):
    """Exchange channels between two groups."""

    def forward(self, x: Tensor) -> Tensor:
        n, _, height, width = x.shape
        return x.reshape(n, 2, -1, height, width).transpose(1, 2).reshape(n, -1, height, width)


class Attention(nn.Module):
    """A transformer block on the pixels: attention, and an MLP."""

    def __init__(self, width: int):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norms[0](tokens)).unsqueeze(1).chunk(3, -1)  # one head
        tokens = tokens + self.project(nn.functional.scaled_dot_product_attention(q, k, v).squeeze(1))
        tokens = tokens + self.mlp(self.norms[1](tokens))
        return tokens.transpose(1, 2).reshape(x.shape)


class LayerNormConv(nn.Module):
    """A block of ConvNeXt: depthwise convolution, LayerNorm and linear layers on the channels."""

    def __init__(self, width: int):
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.body = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(self.depthwise(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def conv(in_channels: int, out_channels: int, kernel: int | tuple[int, int] = 3, **options: int) -> list[nn.Module]:
    """Convolution, padded to keep the size at stride 1, and BatchNorm."""
    sizes = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    padding = tuple(options.get("dilation", 1) * (size - 1) // 2 for size in sizes)
    return [
        nn.Conv2d(in_channels, out_channels, kernel, padding=padding, bias=False, **options),
        nn.BatchNorm2d(out_channels),
    ]


def classifier(*layers: nn.Module, width: int = CHANNELS) -> nn.Module:
    return randomised(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)))


def basic(act: Callable[[], nn.Module] = nn.ReLU) -> nn.Module:
    return Sum(nn.Sequential(*conv(8, 8), act(), *conv(8, 8)))


# Each makes a network in eval mode.
KINDS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: classifier(
        *conv(8, 8), nn.ReLU(), *conv(8, 8), nn.ReLU(), nn.MaxPool2d(2), *conv(8, 8), nn.ReLU()
    ),
    "residual": lambda: classifier(
        basic(), nn.ReLU(),
        Sum(nn.Sequential(*conv(8, 16, stride=2), nn.ReLU(), *conv(16, 16)), nn.Sequential(*conv(8, 16, 1, stride=2))),
        nn.ReLU(), width=16,
    ),
    "inverted": lambda: classifier(
        Sum(nn.Sequential(*conv(8, 32, 1), nn.ReLU6(), *conv(32, 32, groups=32), nn.ReLU6(), *conv(32, 8, 1))),
        *conv(8, 32, 1), nn.ReLU6(), *conv(32, 32, stride=2, groups=32), nn.ReLU6(), *conv(32, 8, 1),
    ),
    "grouped": lambda: classifier(*conv(8, 16, groups=2), nn.ReLU(), Shuffle(), *conv(16, 8, groups=4), nn.ReLU()),
    "dilated": lambda: classifier(*conv(8, 8, dilation=2), nn.ReLU(), *conv(8, 8, dilation=3), nn.ReLU()),
    "rectangular": lambda: classifier(*conv(8, 8, (1, 7)), nn.ReLU(), *conv(8, 8, (7, 1)), nn.ReLU()),
    "concatenated": lambda: classifier(
        Concatenation(nn.Identity(), nn.Sequential(*conv(8, 4), nn.ReLU()), nn.Sequential(*conv(8, 4, 5), nn.ReLU())),
        *conv(16, 8, 1), nn.ReLU(), *conv(8, 8), nn.AvgPool2d(2),
    ),
    "preactivation": lambda: classifier(
        Sum(nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), *conv(8, 8), nn.ReLU(), *conv(8, 8)))
    ),
    "excitation": lambda: classifier(
        *conv(8, 8), nn.Hardswish(), Excitation(8), *conv(8, 8), nn.SiLU(), *conv(8, 8), nn.LeakyReLU(0.1)
    ),
    "upsampling": lambda: classifier(
        *conv(8, 8, stride=2), nn.ReLU(), nn.ConvTranspose2d(8, 8, 4, 2, 1), nn.ReLU(), nn.Upsample(scale_factor=2),
        *conv(8, 8), nn.PReLU(8),
    ),
    "convnext": lambda: classifier(LayerNormConv(8), nn.Conv2d(8, 8, 2, 2), LayerNormConv(8)),
    "transformer": lambda: classifier(nn.Conv2d(8, 16, 4, 4), Attention(16), width=16),
}  # fmt: skip


def example() -> Tensor:
    return torch.randn(4, CHANNELS, PIXELS, PIXELS)
