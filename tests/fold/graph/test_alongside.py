"""Networks whose code asks about sizes, and what is baked into their graphs."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layer_folding.errors import InputError
from layer_folding.fold import fold, gates, harden, hoist_padding, linearize, scan
from layer_folding.fold.graph.alongside import ExampleTracer
from layer_folding.fold.graph.baked import record
from layer_folding.fold.graph.tracing import trace
from tests.fold.networks import EXAMPLE, WIDTH, Calls, conv, difference, noise, randomised

DOUBLE = EXAMPLE.double()


def iterates(m: Calls, x: Tensor) -> Tensor:
    return torch.cat([part * (i + 1) for i, part in enumerate(m.a(x).chunk(2, 1))], 1)


def branches(m: Calls, x: Tensor) -> Tensor:
    x = m.a(x)
    return m.act(x) if x.shape[2] > 7 else x


def computes(m: Calls, x: Tensor) -> Tensor:
    height = int(x.shape[2] / 2)
    return F.adaptive_avg_pool2d(m.a(x), (height, max(3, height)))


def asserts(m: Calls, x: Tensor) -> Tensor:
    assert x.shape[1] == WIDTH and x.dim() == len(x.shape) and x.is_floating_point()
    n, _, *size = x.shape
    return m.a(x).view(n, -1, *size)


def unpacks(m: Calls, x: Tensor) -> Tensor:
    first, *rest = m.a(x).split([2, 2, 2], 1)
    return torch.cat([*rest, first], 1)


def makes(m: Calls, x: Tensor) -> Tensor:
    rows = torch.arange(x.shape[2], dtype=x.dtype).view(-1, 1)
    return m.a(x) + rows + torch.zeros(1, 1, x.shape[2], 1, dtype=x.dtype)


def stores(m: Calls, x: Tensor) -> Tensor:
    m.size = x.shape[2:]
    return F.interpolate(m.act(m.a(x)), size=m.size)


@pytest.mark.parametrize("forward", [iterates, branches, computes, asserts, unpacks, makes, stores])
def test_questions_about_sizes_are_answered_from_the_example(forward):
    model = randomised(Calls(forward, a=conv(WIDTH, 6), act=nn.ReLU())).double().eval()
    graph = trace(model, DOUBLE)
    assert difference(graph(noise()), model(noise())) == 0
    assert not any(isinstance(value, torch.fx.Proxy) for value in vars(model).values())


class TakesMore(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.act = conv(WIDTH, 6), nn.ReLU()

    def forward(self, x: Tensor, mask: Tensor | None = None, *more: Tensor, double: bool = False, **named: Tensor):
        x = self.act(self.a(x))
        if mask is not None or more or named:
            x = x * 2
        return {"features": x, "sum": x.sum()} if not double else x * 2


def test_other_arguments_keep_their_defaults():
    model = TakesMore().double().eval()
    gated = linearize(model, DOUBLE, gate="all")
    assert list(gates(gated)) == ["act"]
    assert difference(gated(noise())["features"], model(noise())["features"]) == 0


@pytest.mark.parametrize(
    ("forward", "axes"),
    [
        (lambda m, x: m.act(m.a(x)), ()),
        (lambda m, x: torch.cat([*m.a(x).chunk(2, 1)], 1), ()),
        (lambda m, x: F.avg_pool2d(m.a(x), (int(x.shape[2]), 1)), (2,)),
        (lambda m, x: m.a(x).reshape(int(x.shape[0]), -1), (0,)),
        (lambda m, x: m.a(x) + torch.ones(int(x.shape[2]), int(x.shape[3]), dtype=x.dtype), (2, 3)),
    ],
    ids=["nothing", "channels", "height", "batch", "image"],
)
def test_another_size_is_refused_only_where_a_size_is_baked(forward, axes):
    model = Calls(forward, a=conv(WIDTH, 6), act=nn.ReLU()).double().eval()
    graph = trace(model, DOUBLE)
    for axis in (0, 2, 3):
        other = torch.cat([DOUBLE, DOUBLE], axis)
        if axis in axes:
            with pytest.raises(InputError, match=rf"traced for .*{DOUBLE.shape[axis]} on axis {axis}.*trace it again"):
                graph(other)
        else:
            assert difference(graph(other), model(other)) == 0


def on_values(m: Calls, x: Tensor) -> Tensor:
    x = m.act(m.a(x))
    return x if x.max() > 1 else -x


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x[:, : int(x.argmax()) % 2 + 1]


def test_code_that_depends_on_values_is_refused_with_file_and_line():
    line = inspect.getsourcelines(on_values)[1] + 2
    with pytest.raises(InputError, match=rf"{__file__}:{line} asks whether a condition holds, which depends on the v"):
        trace(Calls(on_values, a=conv(WIDTH, 6), act=nn.ReLU()), EXAMPLE)


def test_a_module_whose_code_depends_on_values_stays_whole():
    model = nn.Sequential(conv(WIDTH, 6), nn.ReLU(), conv(6, 6), nn.ReLU(), Head()).double().eval()
    (reason,) = [entry for entry in scan(model, DOUBLE).skipped if entry.layer == "4.conv"]
    line = inspect.getsourcelines(Head.forward)[1] + 2
    assert reason.code == "kept-whole" and "4 stays whole, because its code cannot be recorded" in reason.reason
    assert f"{__file__}:{line} asks for a whole number" in reason.reason
    gated = linearize(model, DOUBLE)
    with torch.no_grad():
        gates(gated)["1"].alpha.fill_(1)
    hoisted = hoist_padding(harden(gated), DOUBLE)[0]
    result = fold(hoisted, DOUBLE)
    assert [merge.layers for merge in result.folded] == [("0", "2")]
    assert [entry.code for entry in result.skipped if entry.layer == "4.conv"] == ["kept-whole"]
    assert difference(result.model(noise()), hoisted(noise())) <= 1e-9


class Remembers(nn.Module):
    """Keeps what it computed in a dictionary, and hooks itself when it is first called, as transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.seen = nn.Sequential(conv(WIDTH, 6), nn.ReLU()), {}

    def forward(self, x: Tensor) -> Tensor:
        if not self.seen:
            self.seen["all"] = []
            self.block.register_forward_hook(lambda module, args, output: self.seen["all"].append(output))
        self.block(x)
        return torch.cat(self.seen["all"], 1)


def test_what_code_keeps_in_dictionaries_and_hooks_is_forgotten():
    """Else the network, recorded again for another size, would compute something else."""
    model, other = nn.Sequential(Remembers(), conv(6, 5)).double().eval(), torch.cat([DOUBLE, DOUBLE], 2)
    graph = record(model, DOUBLE, ExampleTracer).graph
    assert record(model, DOUBLE, ExampleTracer).baked == ()
    assert len(model[0].seen) == len(model[0].block._forward_hooks) == 0
    assert str(ExampleTracer(other).trace(model)) == str(graph)


def test_a_network_of_which_all_is_kept_whole_is_refused():
    with pytest.raises(InputError, match=r"0 stays whole .* and no activation is outside of it"):
        trace(nn.Sequential(Calls(on_values, a=conv(WIDTH, 6), act=nn.ReLU())), EXAMPLE)
