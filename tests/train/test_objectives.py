from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from layer_folding.errors import InputError
from layer_folding.fold import depth_penalty, gates, linearize
from layer_folding.fold.fitting.divergences import measure_of
from layer_folding.fold.graph.tracing import trace
from layer_folding.fold.models import build
from layer_folding.train.hyperparameters import Hyperparameters
from layer_folding.train.objectives import distillation_loss, feature_loss, objective, recorded, shared_activations

H = Hyperparameters(epochs=1, batch=4, lr=0.1, weight_decay=0.0, seed=0)
X = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 1])


def networks() -> tuple[nn.Module, nn.Module]:
    """A gated student and its teacher, of different weights."""
    torch.manual_seed(0)
    student = linearize(build("resnet20", 3), X[:1])
    return student.eval(), trace(build("resnet20", 3), X[:1]).eval()


def test_the_task_alone():
    student, _ = networks()
    loss, task = objective(student, X, LABELS, replace(H, label_smoothing=0.2))
    torch.testing.assert_close(loss, F.cross_entropy(student(X), LABELS, label_smoothing=0.2))
    torch.testing.assert_close(task, loss.detach())


def test_distillation_is_a_share_of_the_loss():
    student, teacher = networks()
    loss, task = objective(student, X, LABELS, replace(H, distill=0.25, temperature=2.0), teacher)
    torch.testing.assert_close(task, F.cross_entropy(student(X), LABELS).detach())
    torch.testing.assert_close(loss, 0.75 * task + 0.25 * distillation_loss(student(X), teacher(X), 2.0))
    loss.backward()
    assert all(p.grad is None for p in teacher.parameters())


def test_distillation_loss():
    student, teacher = torch.tensor([[1.0, 3.0], [0.0, -2.0]]), torch.tensor([[2.0, 0.0], [0.0, -2.0]])
    p, q = (logits / 4 for logits in (teacher, student))
    expected = 16 * (p.softmax(1) * (p.softmax(1) / q.softmax(1)).log()).sum(1).mean()
    torch.testing.assert_close(distillation_loss(student, teacher, 4.0), expected)
    assert distillation_loss(teacher, teacher, 4.0) == 0


def test_without_classes_the_task_is_the_distance_from_the_outputs_of_the_teacher():
    torch.manual_seed(0)
    student, teacher = (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(2)) for _ in range(2))
    measure = measure_of((teacher(X).detach(),))
    loss, task = objective(student, X, LABELS, replace(H, distill=1.0), teacher, measure=measure)
    torch.testing.assert_close(loss, measure.mean([teacher(X)], [student(X)]))
    torch.testing.assert_close(task, loss.detach())
    loss.backward()
    assert all(p.grad is None for p in teacher.parameters()) and student[0].weight.grad.abs().sum() > 0
    assert objective(teacher, X, LABELS, H, teacher, measure=measure)[0] == 0


def test_features_are_compared_where_both_keep_the_activation():
    student, teacher = networks()
    names = shared_activations(student, teacher)
    assert names == ["relu", *(f"layer{stage}.{block}.relu_1" for stage in (1, 2, 3) for block in (0, 1, 2))]
    loss, task = objective(student, X, LABELS, replace(H, distill_features=2.0), teacher, names)
    with recorded(student, names) as ours, recorded(teacher, names) as theirs:
        student(X), teacher(X)
    torch.testing.assert_close(loss, task + 2 * feature_loss(ours, theirs))


def test_feature_loss_is_relative_and_a_mean():
    theirs = {"a": torch.full((2, 3), 2.0), "b": torch.full((5,), 10.0)}
    ours = {"a": torch.full((2, 3), 3.0), "b": torch.full((5,), 10.0)}
    assert feature_loss(ours, theirs) == pytest.approx(0.25 / 2)


@pytest.mark.slow
def test_no_features_are_left():
    student, teacher = linearize(build("resnet20", 3), X[:1], gate="all"), networks()[1]
    with pytest.raises(InputError, match="--distill-features: all activations have gates"):
        shared_activations(student, teacher)


def test_recording_leaves_no_hooks():
    student, _ = networks()
    with recorded(student, ["relu"]):
        pass
    with recorded(student, []) as outputs:
        student(X)
    assert outputs == {} and not student.relu._forward_hooks


def test_the_penalty_weighs_gates():
    student, _ = networks()
    weights = {name: float(i) for i, name in enumerate(gates(student))}
    loss, task = objective(student, X, LABELS, replace(H, penalty=0.5, gate_weights=weights))
    torch.testing.assert_close(loss, task + 0.5 * 0.57 * sum(range(9)))
    loss.backward()
    list(gates(student).values())[3].alpha.data.fill_(0.6)
    assert depth_penalty(student, weights=weights).item() == pytest.approx(0.57 * (33 + 3 * (1 - (0.6 + 0.36) / 2)))


@pytest.mark.parametrize("change", [{"more": 1.0}, {"layer1.0.relu": None}])
def test_weights_for_other_gates(change):
    student, _ = networks()
    weights = dict.fromkeys(gates(student), 1.0) | change
    weights = {name: weight for name, weight in weights.items() if weight is not None}
    with pytest.raises(InputError, match=f"gate weights: {next(iter(change))} differ"):
        depth_penalty(student, weights=weights)
