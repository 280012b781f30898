import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fold import InputError, depth, fold, hoist_padding
from fold.graph import ACTIVATIONS
from train import Linearizable, depth_penalty, gates, harden, linearize
from train.choose import choose
from train.models import build

EXAMPLE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    """A residual block that calls one in-place ReLU twice, and a function after the head."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(3, 4)

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)) + x)
        return torch.tanh(self.head(y.mean((2, 3))))


def set_gates(model: nn.Module, value: float, names=None) -> None:
    for name, gate in gates(model).items():
        if names is None or name in names:
            gate.alpha.data.fill_(value)


def test_a_gate_at_0_changes_nothing_and_the_model_is_not_modified():
    model = Block().eval()
    before = copy.deepcopy(model.state_dict())
    gated = linearize(model, EXAMPLE, gate="all")
    assert set(gates(gated)) == {"relu", "relu_1", "tanh"}
    assert all(gate.alpha.shape == () and gate.alpha == 0 for gate in gates(gated).values())
    torch.testing.assert_close(gated(EXAMPLE), model(EXAMPLE), rtol=0, atol=0)
    depth_penalty(gated).backward()
    assert not gates(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU6(), nn.GELU()])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (3, 4), (2, 3, 5)])
def test_gradients(activation, shape):
    gate = Linearizable(activation).double()
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    for alpha in (0.0, 0.4, 1.0, 1.3):

        def value(x, alpha):
            return torch.func.functional_call(gate, {"alpha": alpha}, (x,))

        alpha = torch.tensor(alpha, dtype=torch.float64)
        torch.testing.assert_close(value(x, alpha), alpha * x + (1 - alpha) * activation(x))
        # away from 0, below which alpha is clipped
        assert torch.autograd.gradcheck(value, (x, (alpha + 0.1).requires_grad_()))
        if len(shape) == 4:
            last = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
            assert torch.autograd.gradcheck(value, (last, (alpha + 0.1).requires_grad_()))


def test_gates_go_where_layers_can_merge():
    assert list(gates(linearize(Block(), EXAMPLE))) == ["relu"]
    gated = linearize(build("resnet20", 10), torch.zeros(1, 3, 32, 32))
    assert list(gates(gated)) == [f"layer{stage}.{block}.relu" for stage in (1, 2, 3) for block in (0, 1, 2)]


def test_nothing_to_gate():
    with pytest.raises(InputError, match=r"Sequential has 1 activations, and the removal of none.*scan"):
        linearize(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()), EXAMPLE)
    with pytest.raises(InputError, match="'some': unknown"):
        linearize(Block(), EXAMPLE, gate="some")


@pytest.mark.parametrize("kind", ACTIVATIONS)
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_function_of_a_gate(kind, alpha):
    gate = Linearizable(kind())
    gate.alpha.data.fill_(alpha)
    x = torch.linspace(-8, 8, 101).view(1, 1, -1)
    torch.testing.assert_close(gate(x), alpha * x + (1 - alpha) * gate.activation(x))


def test_a_gated_relu_is_prelu():
    gate = Linearizable(nn.ReLU()).double()
    gate.alpha.data.fill_(0.37)
    x = torch.randn(64, dtype=torch.float64, requires_grad=True)
    alpha = gate.alpha.detach().clone().requires_grad_()
    actual = torch.autograd.grad(gate(x).square().sum(), (x, gate.alpha))
    expected = torch.autograd.grad(F.prelu(x, alpha.reshape(1)).square().sum(), (x, alpha))
    for mine, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_alpha_is_clipped_from_below_and_can_come_back():
    gate = Linearizable(nn.ReLU())
    gate.alpha.data.fill_(-0.5)
    x = -torch.ones(4)
    (gate(x) + 1).square().sum().backward()  # less of x would be better: the gradient points up
    assert gate.alpha == 0
    assert gate.alpha.grad < 0


def test_two_forward_passes_before_one_backward_pass():
    gated = linearize(Block().eval(), EXAMPLE)
    set_gates(gated, -1.0)
    (gated(EXAMPLE).sum() + gated(EXAMPLE).sum() + depth_penalty(gated)).backward()


def test_depth_penalty():
    gated = linearize(Block(), EXAMPLE, gate="all")
    assert depth_penalty(gated) == 3
    for gate, alpha in zip(gates(gated).values(), (0.5, 1.0, 1.5), strict=True):
        gate.alpha.data.fill_(alpha)
    torch.testing.assert_close(depth_penalty(gated), torch.tensor(0.75 + 0.0 + 1.25))
    with pytest.raises(InputError, match="Block has no gates; linearize"):
        depth_penalty(Block())


def test_harden():
    model = Block().eval()
    gated = linearize(model, EXAMPLE, gate="all")
    for name, alpha in {"relu": 0.9, "relu_1": 0.89, "tanh": 0.2}.items():
        set_gates(gated, alpha, [name])
    hard = harden(gated)
    assert len(gates(gated)) == 3 and not gates(hard)
    assert type(hard.relu) is nn.Identity
    assert (type(hard.relu_1), type(hard.tanh)) == (nn.ReLU, nn.Tanh)
    assert not hard.training
    assert set(hard.state_dict()) == set(model.state_dict())
    assert type(harden(gated, threshold=0.95).relu) is nn.ReLU


def test_the_whole_contract_in_a_training_loop_that_is_not_ours():
    torch.manual_seed(0)
    model = Block()
    gated = linearize(model, EXAMPLE)
    labels = torch.tensor([0, 3])
    optimizer = torch.optim.Adam(gated.parameters(), lr=0.05)
    for _ in range(60):
        loss = F.cross_entropy(gated(EXAMPLE), labels) + 0.25 * depth_penalty(gated)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert gates(gated)["relu"].alpha > 0.9
    hard, report = hoist_padding(harden(gated), EXAMPLE)
    assert [region.layers for region in report] == [("conv1", "conv2")]
    result = fold(hard.eval(), EXAMPLE)
    assert [merge.layers for merge in result.folded] == [("conv1", "conv2")]
    assert (depth(model, EXAMPLE), depth(result.model, EXAMPLE)) == (3, 2)
    torch.testing.assert_close(result.model(EXAMPLE), hard(EXAMPLE), rtol=1e-4, atol=1e-5)


def test_choose_keeps_activations_whose_removal_buys_a_costlier_layer():
    example = torch.zeros(1, 1, 32, 32)
    gated = linearize(build("mobilenetv2-digits", 10, 1), example)
    set_gates(gated, 1.0, {"blocks.1.expand.act", "blocks.1.depthwise.act", "blocks.3.expand.act"})
    removed, kept = choose(gated, example)
    assert removed == ["blocks.1.expand.act", "blocks.1.depthwise.act"]
    assert list(kept) == ["blocks.3.expand.act"]
    assert kept["blocks.3.expand.act"].startswith("merging blocks.3.expand.conv + blocks.3.depthwise.conv would cost ")
    assert choose(gated, example, max_growth=100)[1] == {}
