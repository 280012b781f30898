"""Activations that are added behind merged layers."""

import pytest
import torch
from torch import nn

from layer_folding.errors import InputError
from layer_folding.fold import checkpoints, fold, hoist_padding
from layer_folding.fold.graph.changes import add, is_addition, remove
from layer_folding.fold.graph.nodes import is_activation
from layer_folding.fold.graph.tracing import trace
from layer_folding.fold.models import build
from layer_folding.fold.plan.candidates import Alternative, candidates, merges_of, segments
from tests.fold.test_checkpoints import EXAMPLE, network, recipe

LAYERS = {i: tuple(f"blocks.{i}.{part}.conv" for part in ("expand", "depthwise", "project")) for i in range(6)}


def twins(model: nn.Module, example: torch.Tensor = EXAMPLE) -> dict[tuple[str, ...], Alternative]:
    """By the layers of their candidates, the alternatives that add an activation."""
    found = [(c.merge.layers, each) for c in candidates(model, example).found for each in c.alternatives]
    return {layers: each for layers, each in found if is_addition(each.changes[-1])}


def kinds(model: nn.Module, example: torch.Tensor) -> list[str]:
    """The weighted layers and the activations of ``model``, in order."""
    graph = trace(model, example).graph
    modules = [graph.owning_module.get_submodule(node.target) for node in graph.nodes if node.op == "call_module"]
    return [type(m).__name__ for m in modules if isinstance(m, (nn.Conv2d, nn.Linear, nn.ReLU6))]


@pytest.mark.slow
def test_offered_where_a_merged_layer_would_end_linear():
    """Behind a bottleneck and behind the sum of a skip, and nowhere else."""
    found = twins(network())
    assert found[LAYERS[1]].changes == (
        "blocks.1.expand.act", "blocks.1.depthwise.act", "+blocks.1.add_1=blocks.1.depthwise.act",
    )  # fmt: skip
    assert found[LAYERS[2]].changes[2:] == ("+blocks.2.project.bn=blocks.2.depthwise.act",)
    assert all(layers[-1].endswith("project.conv") for layers in found)
    resnet, images = build("resnet20", 10), torch.zeros(1, 3, 32, 32)  # an activation follows every sum
    assert candidates(resnet, images).found and not twins(resnet, images)
    chain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 1, 1))  # logits stay as they are
    assert candidates(chain, EXAMPLE).found and not twins(chain)


@pytest.mark.slow
def test_it_is_an_alternative_to_the_exact_merge():
    exact = {c.merge.layers: c.exact for c in candidates(network(), EXAMPLE).found if c.exact}
    for layers, other in twins(network()).items():
        assert other.changes[:-1] == exact[layers].changes and other.segment != exact[layers].segment
        if len(layers) == 3:
            assert merges_of(network(), EXAMPLE, other.changes) == {layers}


@pytest.mark.parametrize("block", [1, 2])
@pytest.mark.slow
def test_the_segment_has_the_activation(block):
    model = network()
    parts = {part.name: part for part in segments(model, EXAMPLE)}
    candidate = next(c for c in candidates(model, EXAMPLE).found if c.merge.layers == LAYERS[block])
    names = [alternative.segment for alternative in candidate.alternatives if alternative.shape is None]
    assert names[1].startswith("active ")
    plain, active = (parts[name].module for name in names)
    x = torch.randn(2, *parts[names[0]].input_shape)
    assert parts[names[0]].input_shape == parts[names[1]].input_shape and active(x).shape == plain(x).shape
    assert "ReLU6" not in kinds(plain, x)
    assert kinds(active, x) == ["Conv2d", "ReLU6"]


def test_the_same_work_has_one_segment():
    found = twins(network())
    assert found[LAYERS[0]].segment == found[LAYERS[1]].segment != found[LAYERS[2]].segment


@pytest.fixture(scope="module")
def changed() -> dict[str, tuple[nn.Module, dict]]:
    """Blocks 1 and 2 without their activations and with one at their ends: hoisted, and folded."""
    found = twins(network())
    changes = [change for block in (1, 2) for change in found[LAYERS[block]].changes]
    hoisted, report = hoist_padding(remove(trace(network(), EXAMPLE), changes), EXAMPLE)
    folded = fold(hoisted.eval(), EXAMPLE)
    steps = {"removed": tuple(changes), "hoisted": tuple(tuple(region.layers) for region in report)}
    merges = {merge.name: tuple(merge.layers) for merge in folded.folded}
    assert list(merges.values()) == [LAYERS[1], LAYERS[2]]
    return {
        "hardened": (hoisted, recipe("hardened", **steps)),
        "folded": (folded.model, recipe("folded", **steps, folded=merges)),
    }


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["hardened", "folded"])
def test_a_checkpoint_gives_it_back(changed, stage, tmp_path):
    model, written = changed[stage]
    checkpoints.save(tmp_path / "a.safetensors", model, written)
    loaded, read = checkpoints.load(tmp_path / "a.safetensors")
    assert read == written and list(loaded.state_dict()) == list(model.state_dict())
    with torch.no_grad():
        assert torch.equal(loaded(EXAMPLE), model.eval()(EXAMPLE))


def test_folded_it_is_the_hoisted_network(changed):
    """Exactly, and with the activation; which is not without effect."""
    hoisted, x = changed["hardened"][0].double().eval(), EXAMPLE.double()
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
        remove(trace(network(), EXAMPLE), [change])
    assert missing in str(caught.value) and change in str(caught.value)
