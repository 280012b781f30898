"""A fully connected network for small images, with any activation: the smallest that can lose some."""

import math

from torch import Tensor, nn

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}
# Glorot and Bengio 2010, and `nn.init.calculate_gain`; a sigmoid's slope at 0 is a quarter of that of tanh.
GAINS = {"relu": math.sqrt(2.0), "tanh": 5.0 / 3, "sigmoid": 4.0}
HIDDEN, WIDTH = 4, 256


class Mlp(nn.Module):
    """Four hidden layers of 256, each followed by ``activation`` ("relu", "tanh" or "sigmoid"), and a classifier.

    Input [N, in_channels, size, size], logits [N, num_classes].
    """

    def __init__(self, activation: str, num_classes: int = 10, in_channels: int = 1, size: int = 32):
        super().__init__()
        layers, width = [], in_channels * size * size
        for _ in range(HIDDEN):
            layers += [nn.Linear(width, WIDTH), ACTIVATIONS[activation]()]
            width = WIDTH
        self.hidden = nn.Sequential(*layers)
        self.linear = nn.Linear(width, num_classes)
        for layer in self.hidden:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight, GAINS[activation])
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.hidden(x.flatten(1)))
