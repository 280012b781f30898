"""VGG with BatchNorm for 32x32 images (Simonyan and Zisserman 2015, "Very Deep Convolutional Networks").

Module names are those of torchvision and of the public CIFAR weights made after it: ``features.N`` and
``classifier.{0,3,6}``.
"""

from torch import Tensor, nn

# Channels of the 3x3 convolutions (columns D and E of table 1 of the paper); each row ends with a pooling by two.
STAGES = {
    16: ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3),
    19: ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4),
}


class CifarVgg(nn.Module):
    """``depth`` 16 or 19; input [N, in_channels, 32, 32], logits [N, num_classes].

    The last pooling leaves one pixel, so the hidden linear layers have 512 channels in place of 4096.
    """

    def __init__(self, depth: int, num_classes: int = 10, in_channels: int = 3):
        super().__init__()
        layers, width = [], in_channels
        for stage in STAGES[depth]:
            for channels in stage:
                layers += [nn.Conv2d(width, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
                width = channels
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            *(nn.Linear(512, 512), nn.ReLU(), nn.Dropout()),
            *(nn.Linear(512, 512), nn.ReLU(), nn.Dropout()),
            nn.Linear(512, num_classes),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))
