"""Tensors that are overwritten in place while they have other names and views: followed rightly, or refused."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from layer_folding.errors import InputError
from layer_folding.fold import fold, gates, hoist_padding, linearize
from layer_folding.fold.graph.tracing import trace
from tests.fold.networks import WIDTH, Calls, conv, difference, noise, removed_activation

DOUBLE = torch.zeros(2, WIDTH, 6, 5, dtype=torch.float64)
X = noise(DOUBLE)


def network(forward) -> nn.Module:
    parts = {
        "a": conv(WIDTH, WIDTH),
        "b": conv(WIDTH, WIDTH, padding=0),
        "keep": nn.Identity(),
        "drop": nn.Dropout(0.5),
    }
    return Calls(forward, **parts, relu=nn.ReLU(inplace=True)).double().eval()


def skip_by_identity(m: Calls, x: Tensor) -> Tensor:
    y = m.a(x)
    skip = m.keep(y)
    y = m.relu(y)
    return y + skip


def skip_by_name(m: Calls, x: Tensor) -> Tensor:
    y = m.a(x)
    z = y
    z += 1
    z *= y
    return m.b(y) + m.b(z)


def skip_by_contiguous(m: Calls, x: Tensor) -> Tensor:
    y = m.a(x)
    z = y.contiguous().view(y.shape)
    z -= 0.5
    return y * z


def skip_before_the_write(m: Calls, x: Tensor) -> Tensor:
    y = m.a(x)
    before = y * 2
    y.relu_().add_(1)
    return y + before


def one_half_of_two(m: Calls, x: Tensor) -> Tensor:
    """The other half keeps its values."""
    first, second = m.a(x).chunk(2, 1)
    first.relu_()
    return first - second


def twice(m: Calls, x: Tensor) -> Tensor:
    y = m.a(x)
    skip = m.keep(m.keep(y))
    m.relu(y)
    y.sub_(1)
    return skip + m.b(F.pad(y, (1, 1, 1, 1)))


def the_input(m: Calls, x: Tensor) -> Tensor:
    return m.relu(x) + m.a(x)


def by_index(m: Calls, x: Tensor) -> Tensor:
    y = m.a(x)
    y[:, :2] += 1
    return y


def by_assignment(m: Calls, x: Tensor) -> Tensor:
    y = m.a(x)
    y[:, 1] = x[:, 0]
    return y


def by_steps(m: Calls, x: Tensor) -> Tensor:
    """As the keypoints of a pose network."""
    y = m.a(x).clone()
    y[:, 1::2] = y[:, 1::2].sigmoid()
    y[:, 0::2] = y[:, 0::2] * 2.0 - m.keep(y)[:, 1::2]
    return y


@torch.no_grad()  # with gradients, PyTorch itself refuses to write to some views
@pytest.mark.parametrize(
    "forward",
    [
        skip_by_identity,
        skip_by_name,
        skip_by_contiguous,
        skip_before_the_write,
        one_half_of_two,
        twice,
        the_input,
        by_index,
        by_assignment,
        by_steps,
    ],
)
def test_other_names_of_an_overwritten_tensor_are_followed(forward):
    model = network(forward)
    traced = trace(model, DOUBLE)
    assert torch.equal(traced(X.clone()), model(X.clone()))
    x = X.clone()
    traced(x)
    assert torch.equal(x, X)  # nothing is in place


def slice_read_whole(m: Calls, x: Tensor) -> Tensor:
    y = m.a(x)
    y[:, :2].relu_()
    return m.b(y)


def whole_read_as_slice(m: Calls, x: Tensor) -> Tensor:
    y = m.a(x)
    part = y[:, 1:]
    m.relu(y)
    return part


def chunk_read_whole(m: Calls, x: Tensor) -> Tensor:
    y = m.a(x)
    first, _ = y.chunk(2, 1)
    first += 1
    return y


def flattened(m: Calls, x: Tensor) -> Tensor:
    y = m.a(x)
    y.flatten(1).mul_(2)
    return y


def by_dropout(m: Calls, x: Tensor) -> Tensor:
    """In training mode the dropout gives another tensor, which is not overwritten."""
    y = m.a(x)
    skip = m.drop(y)
    return m.relu(y) + skip


def by_copying(m: Calls, x: Tensor) -> Tensor:
    y = m.a(x)
    z = y + 0
    y.copy_(m.b(F.pad(z, (1, 1, 1, 1))))
    return y + z


@pytest.mark.parametrize(
    "forward",
    [
        slice_read_whole,
        whole_read_as_slice,
        chunk_read_whole,
        flattened,
        by_dropout,
        by_copying,
    ],
)
def test_what_cannot_be_followed_is_refused(forward):
    with pytest.raises(
        InputError, match=r"^\S+( \(\w+\))? overwrites its input, and .* shares memory .* out of place$"
    ):
        trace(network(forward), DOUBLE)


def test_linearize_hoist_and_fold_keep_the_function():
    """The skip reads what the activation has overwritten: before, all three took the value from before."""

    def forward(m: Calls, x: Tensor) -> Tensor:
        x = m.first(x)
        skip = m.keep(x)
        x = m.relu(x)
        return m.last(m.act(m.middle(x + skip)))

    parts = {"first": conv(WIDTH, WIDTH), "keep": nn.Identity(), "relu": nn.ReLU(inplace=True)}
    more = {"middle": conv(WIDTH, 6), "act": removed_activation(), "last": conv(6, 5, padding=0)}
    model = Calls(forward, **parts, **more).double().eval()
    expected = model(X.clone())
    gated = linearize(model, DOUBLE, gate="all")
    assert len(gates(gated)) == 1
    result = fold(model, DOUBLE)
    assert [merge.layers for merge in result.folded] == [("middle", "last")]
    for same in (gated, hoist_padding(model, DOUBLE)[0], result.model):
        assert difference(same(X.clone()), expected) <= 1e-12


OPERATIONS = (
    "conv", "relu", "relu in place", "F.relu in place", "identity", "name", "add_", "mul_", "+=", "*=", "slice", "step",
    "store", "store number", "store back", "first half", "view", "flatten", "sum", "contiguous", "batch norm",
)  # fmt: skip


class Program(nn.Module):
    """Applies ``steps``, each an operation and the number of the value that it reads, and returns all values."""

    def __init__(self, steps: list[tuple[str, int]]):
        super().__init__()
        self.steps = steps
        self.convs = nn.ModuleList(nn.Conv2d(4, 4, 1) for _ in steps)
        self.relu, self.relu_, self.keep, self.norm = nn.ReLU(), nn.ReLU(inplace=True), nn.Identity(), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        values = [self.convs[0](x)]
        for (operation, number), convolution in zip(self.steps, self.convs, strict=True):
            values.append(self.apply_step(operation, values, values[number % len(values)], convolution))
        return tuple(value.flatten(1).sum(1) + value.flatten(1)[:, 0] for value in values)

    def apply_step(self, operation: str, values: list[Tensor], x: Tensor, convolution: nn.Module) -> Tensor:
        if operation == "conv":
            return convolution(values[0])
        if operation == "batch norm":
            return self.norm(values[0])
        if operation == "sum":
            return values[0] + x.flatten(1).mean(1).view(-1, 1, 1, 1)
        if operation == "+=":
            x += 1.5
            return x
        if operation == "*=":
            x *= -0.5
            return x
        if operation == "store":
            x[:, ::2] = values[0].flatten(1)[0, 0] * 0.3
            return x
        if operation == "store number":
            x[:, 0] = 0.5
            return x
        if operation == "store back":
            x[:, :2] += 1.5
            return x
        return {
            "relu": self.relu, "relu in place": self.relu_, "F.relu in place": lambda x: F.relu(x, inplace=True),
            "identity": self.keep, "name": lambda x: x, "add_": lambda x: x.add_(0.7), "mul_": lambda x: x.mul_(-1.2),
            "slice": lambda x: x[:, :2], "step": lambda x: x[:, ::2], "first half": lambda x: x.chunk(2, 1)[0],
            "view": lambda x: x.view(x.shape), "flatten": lambda x: x.flatten(1),
            "contiguous": lambda x: x.contiguous(),
        }[operation](x)  # fmt: skip


@torch.no_grad()
@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 6)), min_size=2, max_size=8))
@pytest.mark.slow
def test_a_random_program_is_followed_or_refused(steps):
    torch.manual_seed(0)
    model = Program(steps).double().eval()
    example = torch.zeros(2, 4, 3, 3, dtype=torch.float64)
    try:
        traced = trace(model, example)
    except InputError as error:
        assert "write out of place" in str(error)
        return
    x = noise(example)
    for actual, expected in zip(traced(x.clone()), model(x.clone()), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
