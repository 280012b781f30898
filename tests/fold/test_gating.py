import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from layer_folding.errors import InputError
from layer_folding.fold import Linearizable, depth, depth_penalty, fold, gates, harden, hoist_padding, linearize
from layer_folding.fold.gating import close_undecided
from layer_folding.fold.graph.nodes import ACTIVATIONS
from layer_folding.fold.models import build

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
    with pytest.raises(InputError, match="'none': unknown"):
        linearize(Block(), EXAMPLE, linear="none")


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
    gated = linearize(Block(), EXAMPLE, gate="all", linear="identity")
    assert depth_penalty(gated) == 3
    for gate, alpha in zip(gates(gated).values(), (0.5, 1.0, 1.5), strict=True):
        gate.alpha.data.fill_(alpha)
    torch.testing.assert_close(depth_penalty(gated), torch.tensor(0.75 + 0.0 + 1.25))
    gated = linearize(Block(), EXAMPLE, gate="all")
    assert depth_penalty(gated).item() == pytest.approx(3 * 0.57)
    set_gates(gated, 1.0)
    assert depth_penalty(gated) == 0
    with pytest.raises(InputError, match="Block has no gates; linearize"):
        depth_penalty(Block())


def test_harden():
    model = Block().eval()
    gated = linearize(model, EXAMPLE, gate="all")
    for name, alpha in {"relu": 0.9, "relu_1": 0.89, "tanh": 0.2}.items():
        set_gates(gated, alpha, [name])
    hard = harden(gated)
    assert len(gates(gated)) == 3 and not gates(hard)
    assert (type(hard.relu_1), type(hard.tanh)) == (nn.ReLU, nn.Tanh)
    assert not hard.training
    set_gates(gated, 0, ["relu_1", "tanh"])
    torch.testing.assert_close(hard(EXAMPLE), gated(EXAMPLE))  # an open gate is what it is hardened to
    assert set(hard.state_dict()) - set(model.state_dict()) == {"relu.scale", "relu.shift"}
    alone = linearize(model, EXAMPLE, linear="identity")
    set_gates(alone, 0.9)
    assert type(harden(alone).relu) is nn.Identity and set(harden(alone).state_dict()) == set(model.state_dict())
    assert type(harden(alone, threshold=0.95).relu) is nn.ReLU


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


def test_the_gradients_of_the_paper():
    """Those of `alpha x + (1 - alpha) relu(x)` and of `lambda |1 - alpha^2|`, above 1 too."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3)]
    model = nn.Sequential(*layers).double()
    example, target = EXAMPLE.double(), torch.randn(2, 4, 12, 12, dtype=torch.float64)
    for value in (0.0, 0.3, 1.0, 1.4):
        gated = linearize(model, example, linear="identity").double()
        (gate,) = gates(gated).values()
        gate.alpha.data.fill_(value)
        (F.mse_loss(gated(example), target) + 0.25 * depth_penalty(gated)).backward()
        alpha = torch.tensor(value, dtype=torch.float64, requires_grad=True)
        before = model[1](model[0](example))
        output = model[3](alpha * before + (1 - alpha) * F.relu(before))
        expected = torch.autograd.grad(
            F.mse_loss(output, target) + 0.25 * (1 - alpha**2).abs(), (alpha, *model.parameters())
        )
        actual = [gate.alpha.grad, *(p.grad for name, p in gated.named_parameters() if not name.endswith("alpha"))]
        for mine, theirs in zip(actual, expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", ACTIVATIONS)
@pytest.mark.parametrize(("shape", "axis"), [((8, 5), 1), ((8, 5, 7), 1), ((8, 7, 5), -1), ((4, 5, 3, 4), 1),
                                             ((4, 3, 4, 5), -1), ((2, 5, 2, 3, 2), 1)])  # fmt: skip
def test_an_affine_gate(kind, shape, axis):
    """Its function and gradients, from the least-squares fit of each channel in a training step."""
    activation = kind().double()
    gate = Linearizable(activation, channels=5, axis=axis).double()
    means = torch.linspace(-2, 2, 5, dtype=torch.float64)
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).movedim(axis, -1)
    x = (1.5 * x + means).movedim(-1, axis)
    gate(x)
    for channel in range(5):
        inputs = x.select(axis, channel).flatten()
        outputs = activation(x).select(axis, channel).flatten().detach()
        design = torch.stack([inputs, torch.ones_like(inputs)], 1)
        fitted = torch.linalg.lstsq(design, outputs[:, None]).solution.flatten()
        torch.testing.assert_close(torch.stack([gate.scale[channel], gate.shift[channel]]), fitted)
    gate.eval()

    def value(x, alpha):
        return torch.func.functional_call(gate, {"alpha": alpha}, (x,))

    linear = (gate.scale * x.movedim(axis, -1) + gate.shift).movedim(-1, axis)
    for alpha in (0.0, 0.4, 1.0):
        alpha = torch.tensor(alpha, dtype=torch.float64)
        torch.testing.assert_close(value(x, alpha), alpha * linear + (1 - alpha) * activation(x))
    at = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(value, (x.clone().requires_grad_(), at))


def test_the_map_behind_a_batch_norm_is_known_before_training():
    """In closed form for a ReLU: the scale Phi(u / v), the shift v phi(u / v)."""
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3))
    u, v = torch.linspace(-2, 2, 6), torch.linspace(0.5, -1.5, 6)
    model[1].bias.data, model[1].weight.data = u, v
    (gate,) = gates(linearize(model, EXAMPLE)).values()
    normal = torch.distributions.Normal(0.0, 1.0)
    ratio = u / v.abs()
    torch.testing.assert_close(gate.scale, normal.cdf(ratio), rtol=0, atol=1e-4)
    torch.testing.assert_close(gate.shift, v.abs() * normal.log_prob(ratio).exp(), rtol=0, atol=1e-4)


def test_the_channels_are_where_the_layers_around_have_them():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.act = nn.Conv1d(3, 6, 1), nn.ReLU()
            self.conv2, self.a, self.b, self.norm = nn.Conv1d(6, 6, 1), nn.Linear(9, 8), nn.Linear(8, 4), nn.Dropout(0)

        def forward(self, x):
            return self.b(self.norm(F.gelu(self.a(self.conv2(self.act(self.conv(x)))))))

    gated = linearize(Tokens(), torch.zeros(2, 3, 9), gate="all")
    assert {name: (gate.axis, len(gate.scale)) for name, gate in gates(gated).items()} == {
        "act": (1, 6), "gelu": (-1, 8)
    }  # fmt: skip
    set_gates(gated, 1.0)
    result = fold(harden(gated).eval(), torch.zeros(2, 3, 9))
    assert [merge.layers for merge in result.folded] == [("conv", "conv2"), ("a", "b")]


def test_the_map_follows_the_inputs():
    gate = Linearizable(nn.ReLU(), channels=1)
    for mean in (-3.0, 3.0):
        gate.train()
        for _ in range(16 * 60):
            gate(torch.randn(8, 1) + mean)
    assert gate.scale.item() == pytest.approx(1, abs=0.05) and gate.shift.item() == pytest.approx(0, abs=0.1)
    before = gate.scale.clone()
    gate.eval()(torch.zeros(8, 1))
    assert torch.equal(gate.scale, before)


def test_an_affine_gate_stays_within_its_bounds_and_comes_back():
    gate = Linearizable(nn.ReLU(), channels=2)
    for given, kept in ((-0.5, 0.0), (0.4, 0.4), (0.91, 1.0), (7.0, 1.0)):
        gate.alpha.data.fill_(given)
        gate(torch.randn(4, 2))
        assert gate.alpha.item() == pytest.approx(kept)
    gate.alpha.data.zero_()
    depth_penalty(gate).backward()
    assert gate.alpha.grad < 0


def test_gates_that_are_of_use_only_together_share_pressure():
    gated = linearize(build("mobilenetv2-digits", 10, 1), torch.zeros(1, 1, 32, 32))
    set_gates(gated, 0.8, ["blocks.1.expand.act", "blocks.3.expand.act"])
    depth_penalty(gated).backward()
    pull = {name: -gate.alpha.grad for name, gate in gates(gated).items()}
    assert pull["blocks.1.depthwise.act"] > pull["blocks.2.depthwise.act"] > 0


def test_what_is_undecided_closes():
    gated = linearize(build("mobilenetv2-digits", 10, 1), torch.zeros(1, 1, 32, 32))
    set_gates(gated, 0.6, ["head.act"])
    set_gates(gated, 1.0, ["blocks.1.expand.act", "blocks.1.depthwise.act", "blocks.3.expand.act"])
    close_undecided(gated, 0.5)
    assert {name: gate.alpha.item() for name, gate in gates(gated).items() if gate.alpha > 0} == {
        "head.act": 0.5, "blocks.1.expand.act": 1, "blocks.1.depthwise.act": 1, "blocks.3.expand.act": 0.5
    }  # fmt: skip
