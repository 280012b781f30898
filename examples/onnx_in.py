"""An ONNX file from anywhere: its adjacent linear layers folded, compared with the file; five seconds on a CPU.

python examples/onnx_in.py

On the command line: `layer-folding export model.onnx -o simple.onnx`. No activation is removed here, and no images are
needed: networks whose linear blocks were never collapsed, and exporters' leftovers, are common. With images, see
onnx_file.py.
"""

import tempfile
from collections import Counter
from pathlib import Path

import onnx
import torch
from torch import nn

from layer_folding.export import check, simplify


class LinearBlock(nn.Module):
    """Two convolutions without an activation between: wide to train, and one convolution to run, as in SESR."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.expand = nn.Conv2d(channels, hidden, 3, padding=1)
        self.project = nn.Conv2d(hidden, channels, 1)
        self.norm = nn.BatchNorm2d(channels)
        self.activation = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.activation(x + self.norm(self.project(self.expand(x))))


def somebody_elses(path: Path) -> None:
    """Write the file that comes from anywhere."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), *(LinearBlock(8, 64) for _ in range(4)), nn.Conv2d(8, 12, 1))
    model = nn.Sequential(*layers, nn.PixelShuffle(2)).eval()
    torch.onnx.export(model, (torch.rand(1, 3, 32, 32),), path, dynamo=True, verbose=False, optimize=False)


def main() -> tuple[Counter, Counter]:
    """Nodes by operator, before and after."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        somebody_elses(path)
        model = onnx.load(path)
        simple, before, after = simplify(model)
        error = check(model, simple, tolerance=1e-4)  # raises where they differ by more
    print(f"nodes      {before.total()} => {after.total()}")
    print(f"Conv       {before['Conv']} => {after['Conv']}, off by {error:.0e}")
    assert (before["Conv"], after["Conv"]) == (10, 6)
    return before, after


if __name__ == "__main__":
    main()
