from types import SimpleNamespace

import pytest
import torch

from fold.candidates import candidates
from fold.errors import CheckError
from fold.gate_weights import gate_weights
from fold.latency import Timing
from fold.plan import Offer
from train import gates, linearize
from train.models import build


def offer(saves: float, *activations: str) -> Offer:
    candidate = SimpleNamespace(merge=SimpleNamespace(activations=activations))
    return Offer(candidate, Timing(10, 0, ()), Timing(10 - saves, 0, ()), 0.0)


def test_time_is_shared_by_the_activations_of_a_candidate():
    weights = gate_weights([offer(3, "a"), offer(2, "b", "c")], ["a", "b", "c", "d"])
    assert weights == pytest.approx({"a": 4 * 3 / 5, "b": 4 / 5, "c": 4 / 5, "d": 0})


def test_the_best_of_several_candidates_counts():
    weights = gate_weights([offer(1, "a"), offer(6, "a", "b"), offer(2, "b")], ["a", "b"])
    assert weights == {"a": 1, "b": 1}


def test_a_candidate_that_needs_an_activation_without_a_gate_is_out_of_reach():
    assert gate_weights([offer(9, "a", "other"), offer(1, "b")], ["a", "b"]) == {"a": 0, "b": 2}


def test_nothing_pays():
    with pytest.raises(CheckError, match="nothing to gain"):
        gate_weights([], ["a"])
    with pytest.raises(CheckError, match="--gate all"):
        gate_weights([offer(1, "a", "other")], ["a"])


@pytest.mark.parametrize("name", ["resnet20", "mobilenetv2", "vgg16-bn"])
def test_candidates_and_gates_call_activations_by_the_same_names(name):
    """Of resnet20, each block calls one ReLU twice."""
    model, example = build(name, 10).eval(), torch.zeros(1, 3, 32, 32)
    known = gates(linearize(model, example, "all"))
    found = candidates(model, example).found
    assert {activation for candidate in found for activation in candidate.merge.activations} <= known.keys()
    foldable = gates(linearize(model, example))
    assert any(set(candidate.merge.activations) <= foldable.keys() for candidate in found)
