import pytest
import torch

from layer_folding.errors import CheckError
from layer_folding.fold import gates, linearize
from layer_folding.fold.folding import Merge
from layer_folding.fold.models import build
from layer_folding.fold.plan.candidates import Alternative, Candidate, candidates
from layer_folding.fold.plan.gate_weighting import gate_weights
from layer_folding.fold.plan.offers import Offer
from tests.fold.plan.latency_tables import timed


def offer(saves: float, *activations: str, added: tuple[str, ...] = ()) -> Offer:
    merge = Merge(("conv1", "conv2"), activations, (3, 3), (1, 1), 1, (10, 20), (10, 20))
    exact, other = (
        Alternative(kind, changes, (3, 3), merge.macs)
        for kind, changes in (("0,2", activations), ("active 0,2", added))
    )
    candidate = Candidate(merge, frozenset(), "apart 0,2", (3, 8, 8), (exact, other))
    alternative = other if added else exact
    return Offer(candidate, alternative, timed(candidate.apart, 10), timed(alternative.segment, 10 - saves))


def test_time_is_shared_by_the_activations_of_a_candidate():
    weights = gate_weights([offer(3, "a"), offer(2, "b", "c")], ["a", "b", "c", "d"])
    assert weights == pytest.approx({"a": 4 * 3 / 5, "b": 4 / 5, "c": 4 / 5, "d": 0})


def test_the_best_of_several_candidates_counts():
    weights = gate_weights([offer(1, "a"), offer(6, "a", "b"), offer(2, "b")], ["a", "b"])
    assert weights == {"a": 1, "b": 1}


def test_a_candidate_that_needs_an_activation_without_a_gate_is_out_of_reach():
    assert gate_weights([offer(9, "a", "other"), offer(1, "b")], ["a", "b"]) == {"a": 0, "b": 2}


def test_an_activation_that_is_added_is_no_matter_of_gates():
    offered = [offer(9, "a", added=("a", "+x=a")), offer(1, "a"), offer(1, "b")]
    assert gate_weights(offered, ["a", "b"]) == {"a": 1, "b": 1}


def test_nothing_pays():
    with pytest.raises(CheckError, match="nothing to gain"):
        gate_weights([], ["a"])
    with pytest.raises(CheckError, match="--gate all"):
        gate_weights([offer(1, "a", "other")], ["a"])


@pytest.mark.parametrize("name", ["resnet20", "mobilenetv2", "vgg16-bn"])
@pytest.mark.slow
def test_candidates_and_gates_call_activations_by_the_same_names(name):
    """Of resnet20, each block calls one ReLU twice."""
    model, example = build(name, 10).eval(), torch.zeros(1, 3, 32, 32)
    known = gates(linearize(model, example, gate="all"))
    found = candidates(model, example).found
    assert {activation for candidate in found for activation in candidate.merge.activations} <= known.keys()
    foldable = gates(linearize(model, example))
    assert any(set(candidate.merge.activations) <= foldable.keys() for candidate in found)
