"""Small networks with the structures that folding has to get right, and what the tests do with them."""

from __future__ import annotations

from collections.abc import Collection

import torch
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from layer_folding.fold.graph.changes import removed_activation
from layer_folding.fold.graph.nodes import is_activation
from layer_folding.fold.graph.tracing import trace
from layer_folding.fold.models.cifar_resnet import BasicBlock
from layer_folding.fold.models.mobilenet import InvertedResidual

WIDTH = 4
EXAMPLE = torch.zeros(2, WIDTH, 15, 13)  # odd and unequal, so that strides and axes cannot be mixed up unnoticed


class Skip(nn.Module):
    """``body(x) + shortcut(x)``."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None):
        super().__init__()
        self.body = body
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + (x if self.shortcut is None else self.shortcut(x))


class Calls(nn.Module):
    """``forward(self, x)`` as given, with ``modules`` as attributes."""

    def __init__(self, forward, **modules: nn.Module):
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)
        self._forward = forward

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self, x)


def conv(in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1, **options) -> nn.Conv2d:
    """A convolution with "same" padding at stride 1, unless ``options`` say otherwise."""
    return nn.Conv2d(in_channels, out_channels, kernel, stride, **{"padding": kernel // 2, **options})


def chain() -> nn.Sequential:
    """Three convolutions with BatchNorm, the second with a stride; activations "2" and "5" are between them."""
    return nn.Sequential(
        *(conv(WIDTH, 6, bias=False), nn.BatchNorm2d(6), nn.ReLU()),
        *(conv(6, 5, stride=2), nn.BatchNorm2d(5), nn.ReLU()),
        *(conv(5, WIDTH), nn.BatchNorm2d(WIDTH), nn.ReLU()),
    )


def blocks() -> dict[str, nn.Module]:
    """Every kind of block, between a stem and a head; input like EXAMPLE, output [N, 3]."""
    kinds = {
        "chain": chain(),
        "resnet identity": BasicBlock(WIDTH, WIDTH, 1, "A"),
        "resnet option A": BasicBlock(WIDTH, 2 * WIDTH, 2, "A"),
        "resnet option B": BasicBlock(WIDTH, 2 * WIDTH, 2, "B"),
        "resnet option B stride 1": BasicBlock(WIDTH, 2 * WIDTH, 1, "B"),
        "inverted skip": InvertedResidual(WIDTH, WIDTH, 1, 3),
        "inverted stride 2": InvertedResidual(WIDTH, 6, 2, 3),
        "inverted expansion 1": InvertedResidual(WIDTH, 6, 1, 1),
        "nested": Skip(nn.Sequential(Skip(chain()[:3], conv(WIDTH, 6, 1)), conv(6, WIDTH, 5), nn.BatchNorm2d(WIDTH))),
    }
    return {name: with_ends(block) for name, block in kinds.items()}


def with_ends(block: nn.Module) -> nn.Sequential:
    """``block`` between a stem and a classifier; input like EXAMPLE, output [N, 3]."""
    with torch.no_grad():
        channels = block(torch.zeros(2, WIDTH, 16, 16)).shape[1]
    return randomised(
        nn.Sequential(
            nn.Sequential(conv(WIDTH, WIDTH, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU()),
            block,
            nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3)),
        )
    )


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """``model`` in eval mode, with BatchNorms as different from the identity as those of a trained network."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
                nn.init.normal_(module.bias, generator=generator)
    return model.eval()


def activations(model: nn.Module, example: Tensor = EXAMPLE) -> list[str]:
    return [node.target for node in trace(model, example).graph.nodes if is_activation(node)]


def without(model: nn.Module, names: Collection[str], example: Tensor = EXAMPLE) -> fx.GraphModule:
    """A copy of ``model`` in which the activations called ``names`` are removed."""
    traced = trace(model, example.to(next(model.parameters()).dtype))
    for name in names:
        traced.set_submodule(name, removed_activation().train(model.training))
    return traced


def noise(example: Tensor = EXAMPLE, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
    return torch.randn(example.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def difference(actual: Tensor, expected: Tensor) -> float:
    """The largest difference over the largest value."""
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    return ((actual - expected).abs().max() / expected.abs().max()).item()


@st.composite
def random_networks(draw: st.DrawFn) -> nn.Module:
    """Chains, skips in skips and strides, some activations kept, some removed; input like EXAMPLE, in eval mode."""
    torch.manual_seed(draw(st.integers(0, 9)))
    model, _ = _random_chain(draw, WIDTH, depth=0)
    return randomised(model)


def _random_chain(draw: st.DrawFn, channels: int, depth: int) -> tuple[nn.Sequential, int]:
    parts = []
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["conv", "conv", "norm", "act", "removed", "removed", "skip"]))
        if kind == "conv":
            new = draw(st.sampled_from([2, 4, 6]))
            parts.append(_random_conv(draw, channels, new, stride=draw(st.integers(1, 2)) if depth == 0 else 1))
            channels = new
        elif kind == "skip" and depth < 2:
            body, new = _random_chain(draw, channels, depth + 1)
            identity = new == channels and draw(st.booleans())
            parts.append(Skip(body, None if identity else _random_conv(draw, channels, new)))
            channels = new
        elif kind == "norm":
            parts.append(nn.BatchNorm2d(channels, affine=draw(st.booleans())))
        elif kind == "act":
            parts.append(nn.Tanh())
        elif kind == "removed":
            parts.append(removed_activation())
    return nn.Sequential(*parts), channels


def _random_conv(draw: st.DrawFn, channels: int, new: int, stride: int = 1) -> nn.Conv2d:
    kernel, dilation = draw(st.sampled_from([(1, 1), (3, 1), (3, 1), (3, 2), (5, 1)]))
    groups = draw(st.sampled_from([1, 2]))
    padding = dilation * (kernel - 1) // 2
    return nn.Conv2d(channels, new, kernel, stride, padding, dilation, groups, bias=draw(st.booleans()))
