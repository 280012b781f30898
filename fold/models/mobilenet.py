"""MobileNetV2 (Sandler et al. 2018, "Inverted Residuals and Linear Bottlenecks") for 32x32 images.

Every activation is a module of its own, so that each can get a gate and be removed on its own.
"""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

# One row a stage: expansion, channels, blocks, stride of the first block.
# Table 2 of the paper; stem and second stage keep the resolution, as 32x32 input has none to give away.
CIFAR_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
DIGITS_STAGES = ((6, 16, 2, 1), (6, 24, 2, 2), (6, 32, 2, 2))


def conv_bn(
    in_channels: int, channels: int, kernel: int, stride: int = 1, groups: int = 1, act: bool = True
) -> nn.Sequential:
    """``conv`` ("same" padding at stride 1, no bias), ``bn`` and, with ``act``, a ReLU6 named ``act``."""
    conv = nn.Conv2d(in_channels, channels, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    layers = OrderedDict(conv=conv, bn=nn.BatchNorm2d(channels))
    if act:
        layers["act"] = nn.ReLU6()
    return nn.Sequential(layers)


class InvertedResidual(nn.Module):
    """project(depthwise(expand(x))), plus x where shapes allow (section 3.3); the bottleneck is linear.

    [N, in_channels, H, W] to [N, channels, H/stride, W/stride]. With expansion 1 there is no ``expand``.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int):
        super().__init__()
        hidden = in_channels * expansion
        self.expand = conv_bn(in_channels, hidden, 1) if expansion != 1 else None
        self.depthwise = conv_bn(hidden, hidden, 3, stride, groups=hidden)
        self.project = conv_bn(hidden, channels, 1, act=False)
        self.residual = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else self.expand(x)
        y = self.project(self.depthwise(y))
        return x + y if self.residual else y


class MobileNetV2(nn.Module):
    """A 3x3 stem, inverted residuals, a 1x1 convolution, mean over pixels, a classifier.

    Input [N, in_channels, H, W], logits [N, num_classes]. ``stages`` are rows like those of CIFAR_STAGES; ``stem`` and
    ``last`` are the channels of the first and the last convolution.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        stages: Sequence[tuple[int, int, int, int]],
        stem: int,
        stem_stride: int,
        last: int,
    ):
        super().__init__()
        self.stem = conv_bn(in_channels, stem, 3, stem_stride)
        blocks, width = [], stem
        for expansion, channels, count, stride in stages:
            for i in range(count):
                blocks.append(InvertedResidual(width, channels, stride if i == 0 else 1, expansion))
                width = channels
        self.blocks = nn.Sequential(*blocks)
        self.head = conv_bn(width, last, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(last, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.linear.weight, 0, 0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(self.blocks(self.stem(x)))
        return self.linear(self.pool(x).flatten(1))


def mobilenetv2(width: float, num_classes: int = 10, in_channels: int = 3) -> MobileNetV2:
    """MobileNetV2 with 17 blocks for 32x32 images, ``width`` times the channels of the paper; at 1.0, 2.24 million
    parameters with 10 classes."""
    stages = tuple((e, scaled(channels, width), count, stride) for e, channels, count, stride in CIFAR_STAGES)
    last = scaled(1280, max(width, 1.0))  # never fewer, as the paper says in section 5
    return MobileNetV2(num_classes, in_channels, stages, stem=scaled(32, width), stem_stride=1, last=last)


def mobilenetv2_digits(num_classes: int = 10, in_channels: int = 1) -> MobileNetV2:
    """Six blocks of 16 to 32 channels for 32x32 digits: small enough to train on two CPU cores in a minute."""
    return MobileNetV2(num_classes, in_channels, DIGITS_STAGES, stem=16, stem_stride=2, last=96)


def scaled(channels: int, width: float) -> int:
    """``width`` times ``channels``, to a multiple of 8 and at most a tenth down, as in public weights."""
    rounded = max(8, int(channels * width + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels * width else rounded + 8
