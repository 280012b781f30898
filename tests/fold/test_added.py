"""Activations that are added behind merged layers."""

import pytest
import torch
from torch import nn

from fold import checkpoint, fold, hoist_padding
from fold.added import add
from fold.candidates import Candidate, candidates, merges_of, segments
from fold.errors import InputError
from fold.graph import is_activation
from fold.trace import trace
from tests.fold.test_checkpoint import EXAMPLE, network, recipe
from train.models import build

LAYERS = {i: tuple(f"blocks.{i}.{part}.conv" for part in ("expand", "depthwise", "project")) for i in range(6)}


def twins(model: nn.Module, example: torch.Tensor = EXAMPLE) -> dict[tuple[str, ...], Candidate]:
    return {candidate.merge.layers: candidate for candidate in candidates(model, example).adding}


def kinds(model: nn.Module, example: torch.Tensor) -> list[str]:
    """The weighted layers and the activations of ``model``, in order."""
    graph = trace(model, example).graph
    modules = [graph.owning_module.get_submodule(node.target) for node in graph.nodes if node.op == "call_module"]
    return [type(m).__name__ for m in modules if isinstance(m, (nn.Conv2d, nn.Linear, nn.ReLU6))]


def test_offered_where_a_merged_layer_would_end_linear():
    """Behind a bottleneck and behind the sum of a skip, and nowhere else."""
    found = twins(network())
    assert found[LAYERS[1]].changes == (
        "blocks.1.expand.act", "blocks.1.depthwise.act", "+blocks.1.add_1=blocks.1.depthwise.act",
    )  # fmt: skip
    assert found[LAYERS[2]].added == ("+blocks.2.project.bn=blocks.2.depthwise.act",)
    assert all(layers[-1].endswith("project.conv") for layers in found)
    resnet = candidates(build("resnet20", 10), torch.zeros(1, 3, 32, 32))  # an activation follows every sum
    assert resnet.found and not resnet.adding
    chain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 1, 1))  # logits stay as they are
    assert candidates(chain, EXAMPLE).found and not candidates(chain, EXAMPLE).adding


def test_it_takes_the_place_of_what_it_is_compared_with():
    survey = candidates(network(), EXAMPLE)
    plain = {candidate.merge: candidate for candidate in survey.found}
    for twin in survey.adding:
        assert (twin.occupies, twin.apart) == (plain[twin.merge].occupies, plain[twin.merge].apart)
        assert twin.merged != plain[twin.merge].merged
        if len(twin.merge.layers) == 3:
            assert merges_of(network(), EXAMPLE, twin.changes) == {twin.merge.layers}


@pytest.mark.parametrize("block", [1, 2])
def test_the_segment_has_the_activation(block):
    model = network()
    parts = {name: (module, shape) for name, module, shape in segments(model, EXAMPLE)}
    survey = candidates(model, EXAMPLE)
    names = [next(c.merged for c in each if c.merge.layers == LAYERS[block]) for each in (survey.found, survey.adding)]
    assert names[1].startswith("active ")
    (plain, shape), (active, same) = (parts[name] for name in names)
    x = torch.randn(2, *shape)
    assert shape == same and active(x).shape == plain(x).shape
    assert "ReLU6" not in kinds(plain, x)
    assert kinds(active, x) == ["Conv2d", "ReLU6"]


def test_the_same_work_has_one_segment():
    found = twins(network())
    assert found[LAYERS[0]].merged == found[LAYERS[1]].merged != found[LAYERS[2]].merged


@pytest.fixture(scope="module")
def changed() -> dict[str, tuple[nn.Module, dict]]:
    """Blocks 1 and 2 without their activations and with one at their ends: hoisted, and folded."""
    found = twins(network())
    changes = [change for block in (1, 2) for change in found[LAYERS[block]].changes]
    hoisted, report = hoist_padding(checkpoint.remove(trace(network(), EXAMPLE), changes), EXAMPLE)
    folded = fold(hoisted.eval(), EXAMPLE)
    steps = {"removed": changes, "hoisted": [list(region.layers) for region in report]}
    merges = {merge.name: list(merge.layers) for merge in folded.folded}
    assert [tuple(layers) for layers in merges.values()] == [LAYERS[1], LAYERS[2]]
    return {
        "finetuned": (hoisted, recipe("finetuned", **steps)),
        "folded": (folded.model, recipe("folded", **steps, folded=merges)),
    }


@pytest.mark.parametrize("stage", ["finetuned", "folded"])
def test_a_checkpoint_gives_it_back(changed, stage, tmp_path):
    model, written = changed[stage]
    checkpoint.save(tmp_path / "a.safetensors", model, written)
    loaded, read = checkpoint.load(tmp_path / "a.safetensors")
    assert read == {"schema": 1, **written} and list(loaded.state_dict()) == list(model.state_dict())
    with torch.no_grad():
        assert torch.equal(loaded(EXAMPLE), model.eval()(EXAMPLE))


def test_folded_it_is_the_hoisted_network(changed):
    """Exactly, and with the activation; which is not without effect."""
    hoisted, x = changed["finetuned"][0].double().eval(), EXAMPLE.double()
    folded = fold(hoisted, x).model
    torch.testing.assert_close(folded(x), hoisted(x), rtol=1e-9, atol=1e-9)
    assert kinds(folded, x).count("ReLU6") == kinds(network().double(), x).count("ReLU6") - 2
    named = [name for name, module in folded.named_modules() if isinstance(module, nn.ReLU6) and "_added" in name]
    assert len(named) == 2
    for name in named:
        folded.set_submodule(name, nn.Identity())
    assert not torch.allclose(folded(x), hoisted(x))


def test_parameters_are_copied():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.PReLU(init=0.125), nn.Conv2d(2, 2, 1), nn.Conv2d(2, 1, 1))
    traced = add(trace(model, EXAMPLE), ["+2=1"])
    before, added = (m for m in traced.modules() if isinstance(m, nn.PReLU))
    assert added.weight.item() == 0.125 and added.weight is not before.weight
    assert [node.target for node in traced.graph.nodes if is_activation(node)] == ["1", "2_added"]


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        ("+blocks.9.add=blocks.1.expand.act", "value 'blocks.9.add'"),
        ("+blocks.1.add_1=blocks.1.expand.bn", "activation 'blocks.1.expand.bn'"),
        ("+blocks.1.add_1", "activation ''"),
    ],
)
def test_what_is_not_in_the_network(change, missing):
    with pytest.raises(InputError, match=r"there is no .* in the network; give \+VALUE=ACTIVATION") as caught:
        checkpoint.remove(trace(network(), EXAMPLE), [change])
    assert missing in str(caught.value) and change in str(caught.value)
