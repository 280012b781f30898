"""ResNets for 32x32 images (He et al. 2016, "Deep Residual Learning", section 4.2).

Module names are those of the public CIFAR implementations, so that their weights load: ``conv1``, ``bn1``,
``layer{1,2,3}.{i}.{conv1,bn1,conv2,bn2,downsample}`` and ``linear`` or ``fc``.
"""

from torch import Tensor, nn
from torch.nn import functional as F

SHORTCUTS = ("A", "B")
HEADS = ("linear", "fc")


class ZeroPaddedShortcut(nn.Module):
    """Option A of section 3.3: every second pixel, new channels filled with zeros; no weights.

    [N, planes / 2, H, W] to [N, planes, ceil(H / 2), ceil(W / 2)].
    """

    def __init__(self, planes: int):
        super().__init__()
        self.pad = planes // 4

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))


def projection_shortcut(in_planes: int, planes: int, stride: int) -> nn.Sequential:
    """Option B of section 3.3: a 1x1 convolution with the block's stride, and BatchNorm."""
    return nn.Sequential(nn.Conv2d(in_planes, planes, 1, stride, bias=False), nn.BatchNorm2d(planes))


class BasicBlock(nn.Module):
    """relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x)); [N, in_planes, H, W] to [N, planes, H/stride, W/stride]."""

    def __init__(self, in_planes: int, planes: int, stride: int, shortcut: str):
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU()
        self.downsample = None
        if stride != 1 or in_planes != planes:
            projected = shortcut == "B"
            self.downsample = (
                projection_shortcut(in_planes, planes, stride) if projected else ZeroPaddedShortcut(planes)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class CifarResNet(nn.Module):
    """The network of section 4.2: a 3x3 stem, three stages of 16, 32 and 64 channels, mean over pixels, a classifier.

    ``depth`` = 6n + 2 weighted layers gives n blocks a stage. Input [N, in_channels, H, W], logits [N, num_classes].
    ``shortcut`` is "A" (zero-padded) or "B" (projection); ``head`` is the classifier's name, "linear" or "fc".
    """

    def __init__(
        self, depth: int, num_classes: int = 10, in_channels: int = 3, shortcut: str = "A", head: str = "linear"
    ):
        super().__init__()
        if (depth - 2) % 6 or depth < 8:
            raise ValueError(f"depth must be 6n + 2 with n >= 1, got {depth}")
        if shortcut not in SHORTCUTS:
            raise ValueError(f"shortcut must be one of {SHORTCUTS}, got {shortcut!r}")
        if head not in HEADS:
            raise ValueError(f"head must be one of {HEADS}, got {head!r}")
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = stage(16, 16, blocks, 1, shortcut)
        self.layer2 = stage(16, 32, blocks, 2, shortcut)
        self.layer3 = stage(32, 64, blocks, 2, shortcut)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = head
        self.add_module(head, nn.Linear(64, num_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return getattr(self, self.head)(self.pool(x).flatten(1))


def stage(in_planes: int, planes: int, blocks: int, stride: int, shortcut: str) -> nn.Sequential:
    """``blocks`` residual blocks of ``planes`` channels, the first with ``stride``."""
    first = BasicBlock(in_planes, planes, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(planes, planes, 1, shortcut) for _ in range(blocks - 1)))
