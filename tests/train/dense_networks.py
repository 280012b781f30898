"""Networks that give no score for each class: what MODEL=tests.train.dense_networks:NAME means."""

from torch import Tensor, nn


def _block(before: int, after: int, stride: int = 1) -> nn.Sequential:
    """Two layers that merge where the activation between them is removed."""
    first = nn.Conv2d(before, after, 3, stride, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()
    return nn.Sequential(*first, nn.Conv2d(after, after, 1), nn.ReLU())


def segmenter(num_classes: int = 7) -> nn.Module:
    """Scores of classes for each pixel, [N, classes, H, W]."""
    return nn.Sequential(_block(3, 8), _block(8, 8), nn.Conv2d(8, num_classes, 1))


class Detector(nn.Module):
    """Boxes [N, positions, 4] and scores [N, positions, 3] in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(_block(3, 8, stride=2), _block(8, 8))
        self.boxes, self.scores = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.features(x)
        return {"boxes": self.boxes(x).flatten(2).transpose(1, 2), "scores": self.scores(x).flatten(2).transpose(1, 2)}


class Classes(nn.Module):
    """The number of a class for each pixel, int64 [N, H, W]."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = segmenter()

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(x).argmax(1)
