"""A faster ONNX file from an ONNX file and images without labels; a minute on a CPU.

python examples/onnx_file.py

On the command line: `layer-folding fit model.onnx --images photos --speedup 1.2 -o faster.onnx`.
"""

import tempfile
from pathlib import Path

import torch
from torch import nn

import layer_folding as lf
from layer_folding.fitting_files import FasterFile, fit_file


class Block(nn.Module):
    """Two convolutions and what goes around them, as in ResNets."""

    def __init__(self, channels: int):
        super().__init__()
        layers = [nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
        self.inside = nn.Sequential(*layers, nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.inside(x))


def somebody_elses(path: Path, example: torch.Tensor) -> None:
    """Write the file that comes from anywhere; its weights are random."""
    torch.manual_seed(0)
    blocks = [Block(32) for _ in range(2)]
    normed = [layer for _ in range(4) for layer in (nn.Conv2d(32, 32, 3, padding=1), nn.InstanceNorm2d(32), nn.ReLU())]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)]
    model = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), *blocks, *normed, *head).eval()
    lf.export(model, example, path, opset=17)


def main() -> FasterFile:
    """Measure, plan, fit, fold, export and time."""
    images = torch.rand(128, 3, 32, 32)  # yours: some hundred, as the network takes them
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        somebody_elses(path, images[:1])
        done = fit_file(path, images, Path(folder) / "faster.onnx", speedup=1.2, seconds=0.5)
    layers, (low, high) = done.depth, done.bench.ci95
    print(f"layers     {layers[0]} => {layers[1]} layers, divergence {done.fitted.divergence:.2g} nats")
    print(f"latency    {done.bench.speedup:.2f}x as fast [{low:.2f}, {high:.2f}]")
    assert layers[1] < layers[0]
    return done


if __name__ == "__main__":
    main()
