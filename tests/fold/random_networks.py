"""Random networks: graphs of a few operations, most of them linear, on sequences and images of a few pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import chain

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from layer_folding.fold.graph.changes import removed_activation
from tests.fold.networks import randomised

CONVOLUTION = {1: nn.Conv1d, 2: nn.Conv2d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d}
NORM = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d}
AVERAGE = {1: nn.AvgPool1d, 2: nn.AvgPool2d}
MAXIMUM = {1: nn.MaxPool1d, 2: nn.MaxPool2d}
# Of one axis: (kernel, dilation, stride, padding). No padding, as much as keeps the size, and as much as all taps need.
WINDOWS = sorted(
    (kernel, dilation, stride, padding)
    for kernel, dilation in ((1, 1), (2, 1), (3, 1), (3, 1), (4, 1), (2, 2), (3, 2))
    for stride in (1, 1, 1, 2)
    for reach in (dilation * (kernel - 1),)
    for padding in (0, reach // 2, reach // 2, reach)
)


class Graph(nn.Module):
    """Operations in a row; each reads earlier values by number, 0 being the input. Returns what no operation reads."""

    def __init__(self, operations: Sequence[nn.Module], reads: Sequence[tuple[int, ...]]):
        super().__init__()
        self.operations = nn.ModuleList(operations)
        self.reads = tuple(reads)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        values = [x]
        for operation, numbers in zip(self.operations, self.reads, strict=True):
            values.append(operation(*(values[number] for number in numbers)))
        read = set(chain.from_iterable(self.reads))
        return tuple(value for number, value in enumerate(values) if number not in read)

    def extra_repr(self) -> str:
        return f"reads={self.reads}"


class Function(nn.Module):
    """``function(*values)``, and how to write it, for the report of a failure."""

    def __init__(self, function: Callable[..., Tensor], text: str):
        super().__init__()
        self.function, self.text = function, text

    def forward(self, *values: Tensor) -> Tensor:
        return self.function(*values)

    def extra_repr(self) -> str:
        return self.text


class Scale(nn.Module):
    """A factor and a summand for each channel."""

    def __init__(self, channels: int, axes: int):
        super().__init__()
        self.factor = nn.Parameter(torch.randn(channels, *(1,) * axes))
        self.summand = nn.Parameter(torch.randn(channels, *(1,) * axes))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor + self.summand


@st.composite
def random_networks(draw: st.DrawFn) -> tuple[nn.Module, Tensor]:
    """A network of float64 in eval mode, and a random input for it, `[2, channels, *spatial]`."""
    torch.manual_seed(draw(st.integers(0, 99)))
    axes = draw(st.sampled_from([1, 2, 2]))
    x = torch.randn(2, draw(st.integers(1, 6)), *(draw(st.integers(4, 11)) for _ in range(axes)))
    values, operations, reads = [x], [], []
    for _ in range(draw(st.sampled_from(range(2, 21)))):
        # mostly a chain; now and then another value is read again
        numbers = [len(values) - 1 if draw(st.integers(0, 5)) else draw(st.integers(0, len(values) - 1))]
        kind = draw(st.sampled_from(KINDS))
        if kind in JOINS:
            fitting = [i for i, value in enumerate(values) if JOINS[kind](values[numbers[0]].shape, value.shape)]
            if not fitting:
                continue
            numbers.append(draw(st.sampled_from(fitting)))
        operation = kind(draw, *(values[number].shape for number in numbers))
        if operation is not None:
            operations.append(operation)
            reads.append(tuple(numbers))
            with torch.no_grad():
                values.append(operation.eval()(*(values[number] for number in numbers)))
    return randomised(Graph(operations, reads)).double(), x.double()


# Each makes an operation for a value of the shape given; None where there is none.


def convolution(draw: st.DrawFn, shape: torch.Size) -> nn.Module | None:
    channels, *size = shape[1:]
    if not size:
        return nn.Linear(channels, draw(st.integers(1, 6)), bias=draw(st.booleans()))
    windows = [draw(st.sampled_from([w for w in WINDOWS if fits(w, pixels)])) for pixels in size]
    kernel, dilation, stride, padding = zip(*windows, strict=True)
    out, groups = draw(widths(channels))
    make = CONVOLUTION[len(size)]
    return make(channels, out, kernel, stride, padding, dilation, groups, bias=draw(st.booleans()))


def fits(window: tuple[int, int, int, int], pixels: int) -> bool:
    """Whether there is an output, and each sees the image: a layer of nothing but padding is zero however it merges."""
    kernel, dilation, _, padding = window
    return dilation <= pixels and dilation * (kernel - 1) < pixels + 2 * padding


@st.composite
def widths(draw: st.DrawFn, channels: int) -> tuple[int, int]:
    """Output channels and groups of a layer that reads ``channels``."""
    out = draw(st.integers(1, 6))
    return out, draw(st.sampled_from([g for g in range(1, 7) if channels % g == out % g == 0]))


def transposed(draw: st.DrawFn, shape: torch.Size) -> nn.Module | None:
    channels, *size = shape[1:]
    if not size or max(size) > 12:
        return None
    kernel, stride = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    padding = draw(st.integers(0, (kernel - 1) // 2))
    out, groups = draw(widths(channels))
    make = TRANSPOSED[len(size)]
    return make(channels, out, kernel, stride, padding, groups=groups, bias=draw(st.booleans()))


def norm(draw: st.DrawFn, shape: torch.Size) -> nn.Module:
    return NORM[len(shape) - 2](shape[1], affine=draw(st.booleans()))


def removed(draw: st.DrawFn, shape: torch.Size) -> nn.Module:
    return removed_activation()


def tanh(draw: st.DrawFn, shape: torch.Size) -> nn.Module:
    return nn.Tanh()


def add(draw: st.DrawFn, *shapes: torch.Size) -> nn.Module:
    return Function(torch.add, "a + b")


def concat(draw: st.DrawFn, *shapes: torch.Size) -> nn.Module:
    return Function(lambda *values: torch.cat(values, 1), "cat")


def part(draw: st.DrawFn, shape: torch.Size) -> nn.Module | None:
    if shape[1] < 2:
        return None
    start = draw(st.integers(0, shape[1] - 1))
    stop = draw(st.integers(start + 1, shape[1]))
    return Function(lambda x: x[:, start:stop], f"x[:, {start}:{stop}]")


def half(draw: st.DrawFn, shape: torch.Size) -> nn.Module | None:
    if shape[1] < 2:
        return None
    which = draw(st.integers(0, 1))
    return Function(lambda x: x.chunk(2, 1)[which], f"x.chunk(2, 1)[{which}]")


def interleaved(draw: st.DrawFn, shape: torch.Size) -> nn.Module | None:
    """The channel shuffle of ShuffleNet."""
    groups = next((g for g in (2, 3) if shape[1] % g == 0), None)
    if groups is None or len(shape) == 2:
        return None
    rows = (-1, groups, shape[1] // groups, *shape[2:])
    return Function(lambda x: x.view(rows).transpose(1, 2).reshape(-1, *shape[1:]), f"shuffle in {groups} groups")


def scale(draw: st.DrawFn, shape: torch.Size) -> nn.Module:
    return Scale(shape[1], len(shape) - 2)


def scalar(draw: st.DrawFn, shape: torch.Size) -> nn.Module:
    return draw(st.sampled_from([Function(lambda x: 1.5 * x, "1.5 * x"), Function(lambda x: x + 0.75, "x + 0.75")]))


def pool(draw: st.DrawFn, shape: torch.Size) -> nn.Module | None:
    size = shape[2:]
    if not size or min(size) < 3:
        return None
    window = draw(st.integers(2, 3)), draw(st.integers(1, 2)), draw(st.integers(0, 1))  # kernel, stride, padding
    if draw(st.booleans()):
        return AVERAGE[len(size)](*window, count_include_pad=draw(st.booleans()))
    return MAXIMUM[len(size)](*window)


def flat(draw: st.DrawFn, shape: torch.Size) -> nn.Module | None:
    if len(shape) == 2:
        return None
    if math.prod(shape[1:]) <= 24 and draw(st.booleans()):
        return nn.Flatten()
    axes = len(shape) - 2
    return Function(lambda x: x.mean(tuple(range(2, 2 + axes))), "mean")


def features(draw: st.DrawFn, shape: torch.Size) -> nn.Module:
    """A linear layer on the last axis, whatever that is."""
    return nn.Linear(shape[-1], draw(st.integers(1, 6)), bias=draw(st.booleans()))


KINDS = (
    *(convolution,) * 8,
    *(removed,) * 5,
    *(add,) * 3,
    *(norm,) * 2,
    *(tanh, concat, part, half, interleaved, scale, scalar, pool, flat, features, transposed),
)
# Those that read two values, and which two.
JOINS = {
    add: lambda a, b: a == b,
    concat: lambda a, b: a[2:] == b[2:] and a[1] + b[1] <= 12,
}
