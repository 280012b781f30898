import pytest
import torch

from layer_folding.errors import InputError
from layer_folding.fold import fold, gates, harden, hoist_padding, linearize
from layer_folding.fold.models import build
from layer_folding.train.scheduled import open_gates, plan, resolve

EXAMPLE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
REMOVED = ["layer1.1.relu", "layer2.0.relu"]


def gated():
    torch.manual_seed(0)
    return linearize(build("resnet20", 10), EXAMPLE).eval()


@pytest.mark.slow
def test_which_gates_are_meant():
    known = list(gates(gated()))
    assert resolve(["all"], gated()) == known and resolve([], gated()) == []
    assert resolve([known[4], known[1]], gated()) == [known[1], known[4]]
    with pytest.raises(InputError, match=r"--remove layer9: there is no such file or gate; give names out of layer1"):
        resolve(["layer9"], gated())


def test_opened_it_is_what_hardening_and_hoisting_give():
    """The same network as removing, then hoisting; and nothing is left to hoist."""
    first = gated()
    planned, hoisted = plan(first, REMOVED, EXAMPLE)
    open_gates(planned, REMOVED, 1.0)
    open_gates(first, REMOVED, 1.0)
    expected, after = hoist_padding(harden(first), EXAMPLE)
    assert [region.layers for region in hoisted] == [region.layers for region in after]
    assert [region.layers for region in hoisted] == [(f"{b}.conv1", f"{b}.conv2") for b in ("layer1.1", "layer2.0")]
    hard = harden(planned)
    torch.testing.assert_close(planned(EXAMPLE), expected(EXAMPLE))
    assert hoist_padding(hard, EXAMPLE)[1] == []
    result = fold(hard, EXAMPLE)
    assert [merge.layers for merge in result.folded] == [region.layers for region in hoisted]


def test_an_added_activation_closes_while_the_others_open():
    torch.manual_seed(0)
    example = torch.randn(2, 1, 32, 32)
    first = linearize(build("mobilenetv2-digits", 10, 1), example).eval()
    removed = ["blocks.2.expand.act", "blocks.2.depthwise.act"]
    changes = resolve(["+blocks.2.project.bn=blocks.2.depthwise.act", *removed], first)
    assert changes == [*removed, "+blocks.2.project.bn=blocks.2.depthwise.act"]
    with_it, without = plan(first, changes, example)[0], plan(first, removed, example)[0]
    assert not any(gate.alpha.requires_grad for gate in gates(with_it).values())
    torch.testing.assert_close(with_it(example), without(example))  # at the start it is the identity
    for model, opened in ((with_it, changes), (without, removed)):
        open_gates(model, opened, 1.0)
    assert not torch.allclose(with_it(example), without(example))
    hard = harden(with_it, threshold=1.0)
    assert type(hard.get_submodule("blocks.2.project.bn_added")) is torch.nn.ReLU6
    torch.testing.assert_close(hard(example), with_it(example))
    with pytest.raises(InputError, match=r"there is no value 'blocks\.9' in the network"):
        resolve(["+blocks.9=blocks.2.depthwise.act"], first)


def test_closed_it_differs_at_borders_only():
    model = gated()
    planned = plan(model, REMOVED[:1], EXAMPLE)[0]
    inner = [getattr(m.layer1, "1").conv2 for m in (model, planned)]
    outputs = []
    handles = [layer.register_forward_hook(lambda module, inputs, output: outputs.append(output)) for layer in inner]
    model(EXAMPLE), planned(EXAMPLE)
    for handle in handles:
        handle.remove()
    before, after = outputs
    torch.testing.assert_close(before[..., 1:-1, 1:-1], after[..., 1:-1, 1:-1])
    assert not torch.allclose(before, after)


@pytest.mark.slow
def test_no_gate_of_a_plan_is_learned_and_the_model_is_not_modified():
    model = gated()
    planned = plan(model, REMOVED, EXAMPLE)[0]
    assert set(gates(planned)) == set(gates(model)) and len(gates(planned)) == 9
    assert not any(gate.alpha.requires_grad for gate in gates(planned).values())
    assert all(gate.alpha.requires_grad for gate in gates(model).values())
    assert set(planned.state_dict()) == set(model.state_dict())
    planned.train()(EXAMPLE).sum().backward()
    assert all(p.grad is None for p in model.parameters())
