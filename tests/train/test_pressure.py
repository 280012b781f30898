import pytest
import torch
from torch import nn

from layer_folding.fold import gates, linearize
from layer_folding.fold.models import build
from layer_folding.train.health import gate_warnings
from layer_folding.train.hyperparameters import Hyperparameters
from layer_folding.train.pressure import pressure, settle

LEARNED = Hyperparameters(epochs=10, batch=16, lr=0.01, weight_decay=0.0, seed=0, penalty=0.25, gate_lr=5.0)
PAIR = ("blocks.1.expand.act", "blocks.1.depthwise.act")


@pytest.fixture
def gated() -> nn.Module:
    return linearize(build("mobilenetv2-digits", 10, 1), torch.zeros(1, 1, 32, 32))


def test_lambda_is_lambda(gated):
    assert pressure(gated, 0, 0.0) == pressure(gated, 0, 0.9) == 1


def test_pressure_rises_until_so_many_are_open(gated):
    rising = [pressure(gated, 2, progress) for progress in (0.0, 0.05, 0.1, 0.5)]
    assert rising[0] < 1 < rising[-1] and rising[1] / rising[0] == rising[2] / rising[1] == pytest.approx(2)
    for name in PAIR:
        gates(gated)[name].alpha.data.fill_(1)
    assert pressure(gated, 2, 0.5) == 0
    assert pressure(gated, 3, 0.5) > 0


def test_what_is_not_open_late_closes(gated):
    for name in (*PAIR, "blocks.3.expand.act"):
        gates(gated)[name].alpha.data.fill_(1)
    gates(gated)["head.act"].alpha.data.fill_(0.7)

    def values() -> dict[str, float]:
        return {name: round(gate.alpha.item(), 3) for name, gate in gates(gated).items() if gate.alpha > 0}

    before = values()
    settle(gated, 0, 0.6)
    settle(gated, 4, 0.95)  # more are wanted than are open: nothing closes yet
    assert values() == before
    settle(gated, 0, 0.75)
    assert values() == {**dict.fromkeys(PAIR, 1.0), "blocks.3.expand.act": 0.45, "head.act": 0.45}
    settle(gated, 0, 0.95)
    assert values() == dict.fromkeys(PAIR, 1.0)


def test_gates_of_the_paper_do_not_settle():
    gated = linearize(build("resnet20", 10), torch.zeros(1, 3, 32, 32), linear="identity")
    gates(gated)["layer1.0.relu"].alpha.data.fill_(0.5)
    settle(gated, 0, 1.0)
    assert gates(gated)["layer1.0.relu"].alpha == 0.5


def test_a_gate_that_falls_is_named():
    rows = [{"epoch": 1, "a": 0.6, "b": 0.2}, {"epoch": 2, "a": 0.0, "b": 0.95}]
    (warning,) = gate_warnings(rows, ["a", "b"], LEARNED)
    assert warning.startswith("gate a fell from 0.60 to 0.00") and "--gate-lr (was 5)" in warning
    late = [{"epoch": epoch, "a": 0.6, "b": 0.95} for epoch in range(1, 8)]
    assert gate_warnings([*late, {"epoch": 8, "a": 0.0, "b": 0.95}], ["a", "b"], LEARNED) == []


def test_a_lambda_that_opens_nothing_is_named():
    rows = [{"epoch": epoch, "a": 0.1, "b": 0.2} for epoch in (1, 2, 3)]
    (warning,) = gate_warnings(rows, ["a", "b"], LEARNED)
    assert warning.startswith("no gate opened in 3 epochs, and the widest, b, is at 0.20 of 0.9")
    assert "--lambda (was 0.25), or --remove-count" in warning
    assert gate_warnings(rows[:2], ["a", "b"], LEARNED) == []
    assert gate_warnings([*rows[:2], {"epoch": 3, "a": 1.0, "b": 0.2}], ["a", "b"], LEARNED) == []
