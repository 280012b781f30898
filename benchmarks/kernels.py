"""The merged kernel of two 3x3 convolutions: by autograd, as the paper's code does it, and by our algebra.

Layer Folding (Ben Dror et al., BMVC 2022, arXiv 2106.09309) defines the merged layer by what it computes. The code that
its authors published therefore sends a zero image through both layers: the output at the centre is the bias, and the
gradient of one output channel there with respect to the image is one row of the kernel. That takes a backward pass per
output channel. Written anew here, and kept as it is there: float32, zero images of 13x13 pixels for ResNets and 21x21
for VGG, and weights that require gradients, which autograd then computes as well although nobody reads them.

`fold.fold` composes in float64, so that is timed too. BatchNorm is left out on both sides.
"""

import copy
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.measure import Progress, Row, interleave, total
from layer_folding.errors import CheckError
from layer_folding.fold.algebra.affine_conv import AffineConv
from layer_folding.fold.algebra.geometry import Geometry

TOLERANCE = 1e-9  # of the largest weight, in float64
CHECK_PIXELS = 9  # the smallest image whose centre sees no border, whatever the stride

Pair = tuple[int, int, int]  # channels in and out, which are those between the two as well; stride of the first


def resnet(progress: Progress) -> list[Row]:
    """The pairs within the blocks of ResNet-20 and ResNet-56, and both networks with all their pairs."""
    rows = _kinds(50, progress)
    return [
        *rows,
        _resnet20(rows),
        total("ResNet-56, 27 pairs", list(zip((9, 1, 8, 1, 8), rows, strict=True))),
    ]


def resnet20(rounds: int, progress: Progress) -> Row:
    """ResNet-20 with all its pairs."""
    return _resnet20(_kinds(rounds, progress))


def _kinds(rounds: int, progress: Progress) -> list[Row]:
    kinds = [(16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1)]
    return [compare(kind, pixels=13, rounds=rounds, progress=progress) for kind in kinds]


def _resnet20(rows: Sequence[Row]) -> Row:
    return total("ResNet-20, 9 pairs", list(zip((3, 1, 2, 1, 2), rows, strict=True)))


def vgg(progress: Progress) -> list[Row]:
    """The first two convolutions of every stage of VGG16, which are those that the paper's code merges."""
    kinds = [(3, 64, 1), (64, 128, 1), (128, 256, 1), (256, 512, 1), (512, 512, 1)]
    rows = [compare(kind, pixels=21, rounds=5, progress=progress) for kind in kinds]
    return [*rows, total("VGG16, 5 pairs", [(1, row) for row in rows])]


def compare(pair: Pair, pixels: int, rounds: int, progress: Progress) -> Row:
    """Time both ways on one pair with random weights, after a check that they agree. Raises CheckError."""
    first, second = layers = convolutions(pair)
    name = f"{first.in_channels}-{first.out_channels}-{second.out_channels}" + (", stride 2" if pair[2] == 2 else "")
    progress(f"{name}: check")
    check(name, layers)
    contenders = {
        "autograd, float32": partial(by_autograd, layers, pixels),
        "fold.affine, float32": partial(by_composition, layers, torch.float32),
        "fold.affine, float64": partial(by_composition, layers, torch.float64),
    }
    return interleave(name, contenders, rounds, progress)


def convolutions(pair: Pair) -> tuple[nn.Conv2d, nn.Conv2d]:
    """Two 3x3 convolutions in a row with padding 1 and bias, in float32, their weights always the same."""
    in_channels, channels, stride = pair
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Conv2d(in_channels, channels, 3, stride, padding=1), nn.Conv2d(channels, channels, 3, padding=1)


def by_autograd(layers: Sequence[nn.Conv2d], pixels: int) -> tuple[Tensor, Tensor]:
    """Weight `[out, in, k, k]` and bias `[out]` of ``layers`` as one convolution, from a zero image of ``pixels``^2.

    In the dtype of the layers; k is 5, or 7 with stride 2. The image must be large enough for its centre to see no
    border, and the stride must divide ``pixels // 2``, so that an output pixel lies there.
    """
    first, second = layers
    stride = first.stride[0]
    image = torch.zeros(1, first.in_channels, pixels, pixels, dtype=first.weight.dtype, requires_grad=True)
    at = pixels // 2 // stride
    bias = second(first(image))[0, :, at, at]
    reach = 1 + stride
    seen = slice(pixels // 2 - reach, pixels // 2 + reach + 1)
    rows = []
    for channel in range(second.out_channels):
        bias[channel].backward(retain_graph=True)
        rows.append(image.grad[0, :, seen, seen].clone())
        image.grad.zero_()
    return torch.stack(rows), bias.detach()


def by_composition(layers: Sequence[nn.Conv2d], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The same as `by_autograd`, by `fold.algebra.affine_conv.AffineConv.then` in ``dtype``."""
    with torch.no_grad():
        first, second = (_affine(layer, dtype) for layer in layers)
        merged = first.then(second)
    return merged.weight, merged.bias


def check(name: str, layers: Sequence[nn.Conv2d]) -> None:
    """Raises CheckError where the two ways differ by more than 1e-9 in float64, relative to the largest value."""
    # A small image and no gradients of weights: PyTorch's float64 convolutions are slow, and the result is the same.
    exact = [copy.deepcopy(layer).double().requires_grad_(False) for layer in layers]
    expected = by_autograd(exact, CHECK_PIXELS)
    for what, a, b in zip(("weights", "biases"), expected, by_composition(layers, torch.float64), strict=True):
        error = ((a - b).abs().max() / a.abs().max()).item()
        if not error <= TOLERANCE:
            raise CheckError(f"{name}: the {what} of the two ways differ by {error:.1e} (relative, float64)")


def _affine(layer: nn.Conv2d, dtype: torch.dtype) -> AffineConv:
    pads = tuple((p, p) for p in layer.padding)
    geometry = Geometry(
        layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, pads, layer.dilation, layer.groups
    )
    return AffineConv(geometry, layer.weight.to(dtype), layer.bias.to(dtype))
