"""Each remedy that docs/own-model.md names: a small network is refused, gets the remedy, and folds or is traced."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import layer_folding as lf
from layer_folding.fold import fold, harden, hoist_padding, linearize
from layer_folding.fold.graph.tracing import trace
from tests.docs.pages import prose
from tests.docs.test_quotes import OWN_MODEL
from tests.fold.networks import EXAMPLE, WIDTH, Calls, conv, difference, noise, removed_activation

DOUBLE = EXAMPLE.double()
Forward = Callable[[Calls, Tensor], Tensor]


def between(forward: Forward = lambda m, x: x, **parts: nn.Module) -> Calls:
    """``forward`` between the layers ``a`` and ``b``, behind a removed activation."""
    layers = {"a": conv(WIDTH, 6), "act": removed_activation(), "b": conv(6, 5)} | parts
    return Calls(lambda m, x: m.b(forward(m, m.act(m.a(x)))), **layers)


def folded(network: nn.Module, example: Tensor = DOUBLE, **options: bool) -> lf.FoldResult:
    return fold(network.double().eval(), example, **options)


def hoisted(network: nn.Module, **options: bool) -> lf.FoldResult:
    return folded(hoist_padding(network.double().eval(), DOUBLE, **options)[0], **options)


@dataclass(frozen=True)
class Case:
    """A row of the page, by its reason: ``layer`` is ``refused``, and with the remedy it is merged with ``a``."""

    reason: str
    refused: Callable[[], lf.FoldResult]
    remedied: Callable[[], lf.FoldResult]
    layer: str = "b"


def prefolded(penalty: float, steps: int) -> lf.FoldResult:
    """Gates trained with lambda ``penalty`` on what the network gives; what opens is taken out."""
    torch.manual_seed(0)
    model = between(act=nn.ReLU())
    gated, x = linearize(model, EXAMPLE), noise(dtype=torch.float32)
    expected = model(x).detach()
    rate = torch.optim.SGD([gate.alpha for gate in lf.gates(gated).values()], lr=0.1)
    for _ in range(steps):
        rate.zero_grad()
        (F.mse_loss(gated(x), expected) + penalty * lf.depth_penalty(gated)).backward()
        rate.step()
    return hoisted(harden(gated))


def opened(gate: str) -> lf.FoldResult:
    """Of two activations in a row neither is of use alone: by default only the third, elsewhere, gets a gate."""
    rest = nn.MaxPool2d(2), conv(5, WIDTH), nn.ReLU(), conv(WIDTH, WIDTH)
    parts = {"act": nn.ReLU(), "second": nn.Tanh(), "b": nn.Sequential(conv(6, 5), *rest)}
    model = between(lambda m, x: m.second(x), **parts)
    gated = linearize(model, EXAMPLE, gate=gate)
    for each in lf.gates(gated).values():
        each.alpha.data.fill_(1.0)
    return hoisted(harden(gated))


class Rounded(nn.Conv2d):
    """A layer for quantisation-aware training."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x, weight.round(decimals=2), bias)


class Decides(nn.Module):
    """Code that asks for values, with a layer before it or without."""

    def __init__(self, b: nn.Module | None = None):
        super().__init__()
        self.b = b or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(x)
        return x if x.mean() > 0 else -x


def with_statistics() -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(6)
    norm(torch.randn(4, 6, 5, 5))  # as training does
    return norm


Statistics = Callable[[Calls, Tensor], tuple[Tensor, Tensor]]


def batch_norm(statistics: Statistics, training: Callable[[Calls], bool]) -> Calls:
    def normalised(m: Calls, x: Tensor) -> Tensor:
        return F.batch_norm(x, *statistics(m, x), training=training(m))

    return between(normalised, norm=with_statistics(), b=conv(6, 5, padding=0))


def own(m: Calls, x: Tensor) -> tuple[Tensor, Tensor]:
    return m.norm.running_mean, m.norm.running_var


def computed(m: Calls, x: Tensor) -> tuple[Tensor, Tensor]:
    return x.mean((0, 2, 3)), x.var((0, 2, 3))


def never(m: Calls) -> bool:
    return False


def twice(second: str) -> Calls:
    layer = conv(WIDTH, 5, padding=0)
    parts = {"a": conv(WIDTH, WIDTH), "act": removed_activation(), "b": layer, "c": copy.deepcopy(layer)}
    return Calls(lambda m, x: m.b(m.act(m.a(x))) + getattr(m, second)(x.relu()), **parts)


def joined(other: nn.Module) -> Calls:
    parts = {"a": conv(WIDTH, 6), "act": removed_activation(), "c": conv(WIDTH, 6), "other": other, "b": conv(6, 5)}
    return Calls(lambda m, x: m.b(m.act(m.a(x)) + m.other(m.c(x))), **parts)


def transposed(act: nn.Module, **output: object) -> Calls:
    up = nn.ConvTranspose2d(6, 5, 2, stride=2, **({} if "output_size" in output else output))
    call = {key: size for key, size in output.items() if key == "output_size"}
    return Calls(lambda m, x: m.b(m.act(m.a(x)), **call), a=conv(WIDTH, 6, 1), act=act, b=up)


def pooled(pool: nn.Module) -> Calls:
    return between(lambda m, x: m.pool(x), pool=pool, b=conv(6, 5, 1))


def classifier(*pool: nn.Module) -> Calls:
    pixels = 1 if pool else 15 * 13
    parts = {"a": conv(WIDTH, 6, 1), "pool": nn.Sequential(*pool), "b": nn.Linear(6 * pixels, 5)}
    return between(lambda m, x: m.pool(x).flatten(1), **parts)


def padded(forward: Forward) -> Calls:
    return between(forward, b=conv(6, 5, padding=0))


CASES = [
    Case("the activation ... comes before it", lambda: prefolded(0.0, 30), lambda: prefolded(10.0, 30)),
    Case("the activation ... comes before it", lambda: prefolded(1.0, 2), lambda: prefolded(1.0, 90)),
    Case("the activation ... comes before it", lambda: opened("foldable"), lambda: opened("all"), "b.0"),
    Case(
        "... is not linear",
        lambda: folded(pooled(nn.AvgPool2d(2))),
        lambda: folded(pooled(nn.AvgPool2d(2)), average_pooling=True),
    ),
    Case("... is not linear", lambda: folded(classifier()), lambda: folded(classifier(nn.AdaptiveAvgPool2d(1)))),
    Case(
        "... is not a fixed affine map",
        lambda: folded(batch_norm(own, lambda m: True)),
        lambda: folded(batch_norm(own, lambda m: m.training)),
    ),
    Case(
        "... is not a fixed affine map",
        lambda: folded(batch_norm(computed, never)),
        lambda: folded(batch_norm(own, never)),
    ),
    Case(
        "... has no running statistics, so it is not a fixed affine map",
        lambda: hoisted(between(lambda m, x: m.norm(x), norm=nn.BatchNorm2d(6, track_running_stats=False))),
        lambda: hoisted(between(lambda m, x: m.norm(x), norm=with_statistics())),
    ),
    Case(
        "... pads by amounts that the code computes",
        lambda: hoisted(padded(lambda m, x: F.pad(x, [x.size(3) // 6] * 4))),
        lambda: hoisted(padded(lambda m, x: F.pad(x, [2] * 4))),
    ),
    Case(
        "... is called with more than its input, such as an output size",
        lambda: folded(transposed(removed_activation(), output_size=[31, 27])),
        lambda: folded(transposed(removed_activation(), output_padding=1)),
    ),
    Case(
        "... computes something else than the ... that it inherits from",
        lambda: hoisted(between(b=Rounded(6, 5, 3, padding=1))),
        lambda: hoisted(between()),
    ),
    Case(
        "... takes a part of the tensor",
        lambda: hoisted(between(lambda m, x: x[:, [0, 1, 2]], b=conv(3, 5))),
        lambda: hoisted(between(lambda m, x: x.chunk(2, 1)[0], b=conv(3, 5))),
    ),
    Case(
        "... takes a part of the tensor",
        lambda: hoisted(between(lambda m, x: x[:, [0, 1, 2, 3]], b=conv(4, 5))),
        lambda: hoisted(between(lambda m, x: x.split([4, 2], 1)[0], b=conv(4, 5))),
    ),
    Case("... shares its weights with another call", lambda: folded(twice("b")), lambda: folded(twice("c"))),
    Case(
        "... runs on a tensor without a batch axis",
        lambda: folded(padded(lambda m, x: x), DOUBLE[0]),
        lambda: folded(padded(lambda m, x: x), DOUBLE[0].unsqueeze(0)),
    ),
    Case(
        "... pads by ...",
        lambda: hoisted(padded(lambda m, x: F.pad(x, [1] * 4, mode="reflect"))),
        lambda: hoisted(padded(lambda m, x: F.pad(x, [1] * 4))),
    ),
    Case(
        "... pads by ..., which no merged kernel reproduces",
        lambda: hoisted(between(b=conv(6, 5, padding_mode="circular"))),
        lambda: hoisted(between(b=conv(6, 5, padding_mode="zeros"))),
    ),
    Case(
        "... pads with ..., not with zero",
        lambda: hoisted(padded(lambda m, x: F.pad(x, [1] * 4, value=0.5))),
        lambda: hoisted(padded(lambda m, x: F.pad(x, [1] * 4))),
    ),
    Case(
        "... averages over fewer pixels at the borders",
        lambda: hoisted(pooled(nn.AvgPool2d(3, 2, 1, count_include_pad=False)), average_pooling=True),
        lambda: hoisted(pooled(nn.AvgPool2d(3, 2, 1, count_include_pad=True)), average_pooling=True),
    ),
    Case(
        "... averages over fewer pixels at the borders",
        lambda: hoisted(pooled(nn.AvgPool2d(2, ceil_mode=True)), average_pooling=True),
        lambda: hoisted(pooled(nn.AvgPool2d(2, ceil_mode=False)), average_pooling=True),
    ),
    Case(
        "... pads inside the region, so merging is wrong at the borders; hoist_padding first",
        lambda: folded(between()),
        lambda: hoisted(between()),
    ),
    Case(
        "... spreads the bias of the layers before it unevenly at the borders",
        lambda: folded(transposed(nn.Identity())),
        lambda: folded(transposed(removed_activation())),
    ),
    Case(
        "... joins values of different anchors: ...",
        lambda: hoisted(joined(nn.ReLU())),
        lambda: hoisted(joined(removed_activation())),
    ),
    Case(
        "... stays whole, because its code cannot be recorded: ...",
        lambda: hoisted(between(lambda m, x: x, b=nn.Sequential(Decides(conv(6, 5)), nn.ReLU()))),
        lambda: hoisted(between(lambda m, x: x, b=nn.Sequential(conv(6, 5), Decides(), nn.ReLU()))),
        "b.0",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=[f"{number} {case.reason}" for number, case in enumerate(CASES)])
def test_a_layer_is_refused_and_with_the_remedy_merged(case):
    refused, remedied = case.refused(), case.remedied()
    pattern = re.escape(case.reason).replace(r"\.\.\.", ".+")
    pair = {"a", case.layer}
    assert not any(pair <= {*merge.layers} for merge in refused.folded)
    said = [entry.reason for entry in refused.skipped if entry.layer.startswith(case.layer)]
    assert any(re.fullmatch(pattern, reason) for reason in said), said
    assert any(pair <= {*merge.layers} for merge in remedied.folded), remedied.skipped
    assert remedied.max_error <= 1e-9


def decides(m: Calls, x: Tensor) -> Tensor:
    x = m.act(m.a(x))
    return x if x.mean() > 0.5 else -x


def chooses(m: Calls, x: Tensor) -> Tensor:
    x = m.act(m.a(x))
    return torch.where(x.mean() > 0.5, x, -x)


def calls_what_decides(m: Calls, x: Tensor) -> Tensor:
    return m.decides(m.act(m.a(x)))


def by_numpy(m: Calls, x: Tensor) -> Tensor:
    return torch.from_numpy(np.tanh(m.act(m.a(x)).numpy()))


def by_torch(m: Calls, x: Tensor) -> Tensor:
    return torch.tanh(m.act(m.a(x)))


def writes_to_a_part(m: Calls, x: Tensor) -> Tensor:
    x = m.act(m.a(x))
    part = x[:, :4]
    part += 1
    return x * 2


def concatenates(m: Calls, x: Tensor) -> Tensor:
    x = m.act(m.a(x))
    x = torch.cat([x[:, :4] + 1, x[:, 4:]], 1)
    return x * 2


def writes_by_index(m: Calls, x: Tensor) -> Tensor:
    x = m.act(m.a(x))
    x[:, :4] += 1
    return x * 2


# Rows of the table of what `forward` may do, by how they start: what is refused, with which words, and the remedies.
TRACED = {
    "`if x.mean() > 0:`": (decides, "test_remedies.py:.* depends on the values", (chooses, calls_what_decides)),
    "`numpy`": (by_numpy, "cannot be traced", (by_torch,)),
    "`part = x[:, :4]; part += 1`": (writes_to_a_part, "overwrites its input", (concatenates, writes_by_index)),
}


@pytest.mark.parametrize("row", TRACED)
def test_code_is_refused_and_with_the_remedy_traced(row):
    refused, said, remedies = TRACED[row]

    def network(forward: Forward) -> nn.Module:
        torch.manual_seed(0)
        return Calls(forward, a=conv(WIDTH, 6), act=nn.ReLU(), decides=Decides()).double().eval()

    with pytest.raises(lf.InputError, match=said):
        trace(network(refused), DOUBLE)
    for forward in remedies:
        model = network(forward)
        assert difference(trace(model, DOUBLE)(noise()), model(noise())) == 0


def test_all_remedies_of_the_page_are_tried():
    forward, reasons = prose(OWN_MODEL).split("\n## What refuses")
    rows = [re.split(r" *\| *", line)[1:-1] for line in forward.splitlines() if line.startswith("| `")]
    named = [cell for cell, *_, remedy in rows if remedy]
    assert {next((row for row in TRACED if cell.startswith(row)), cell) for cell in named} == {*TRACED}
    listed = re.findall(r"^\| `([^`]+)` \| .* \| ?(.*) \|$", reasons, re.M)
    assert {reason for reason, remedy in listed if remedy} == {case.reason for case in CASES}
