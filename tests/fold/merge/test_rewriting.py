"""Folding: the same function with fewer layers, on a copy, checked; or nothing at all."""

import copy

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from layer_folding.errors import InputError
from layer_folding.fold import fold, hoist_padding
from layer_folding.fold.graph.tracing import trace
from layer_folding.fold.merge.rewriting import merge
from layer_folding.fold.regions.finding import exact_regions
from tests.fold.networks import (
    EXAMPLE,
    WIDTH,
    Calls,
    Skip,
    activations,
    blocks,
    chain,
    conv,
    difference,
    noise,
    random_networks,
    randomised,
    removed_activation,
    with_ends,
    without,
)  # fmt: skip

BLOCKS = {name: block.double() for name, block in blocks().items()}


def hardened(model: nn.Module, names: list[str]) -> nn.Module:
    """``model`` without the activations called ``names``, padding hoisted."""
    return hoist_padding(without(model, names), EXAMPLE.to(next(model.parameters()).dtype))[0]


def pair(channels: int = WIDTH) -> nn.Sequential:
    """Two layers with nothing in between, the second without padding: folds as it is."""
    return nn.Sequential(conv(channels, 6), removed_activation(), conv(6, 5, padding=0)).eval()


@pytest.mark.parametrize("kind", BLOCKS)
def test_each_activation_alone(kind):
    network = BLOCKS[kind]
    for name in activations(network, EXAMPLE.double()):
        hard = hardened(network, [name])
        result = fold(hard, EXAMPLE.double())
        assert difference(result.model(noise()), hard(noise())) <= 1e-9
        assert result.max_error <= 1e-9
        assert all(name in merge.activations or not merge.activations for merge in result.folded)


@pytest.mark.parametrize("kind", BLOCKS)
def test_all_activations(kind):
    """What is left of a network without activations is one layer before the pooling and one after it."""
    network = BLOCKS[kind]
    hard = hardened(network, activations(network, EXAMPLE.double()))
    result = fold(hard, EXAMPLE.double())
    assert difference(result.model(noise()), hard(noise())) <= 1e-9
    assert len(result.folded) == 1
    left = [m for m in result.model.modules() if isinstance(m, (nn.Conv2d, nn.Linear, nn.BatchNorm2d))]
    assert {type(m) for m in left} == {nn.Conv2d, nn.Linear}
    assert len(left) == 2


@settings(max_examples=50, deadline=None)
@given(st.data())
@pytest.mark.slow
def test_any_subset_of_activations(data):
    network = BLOCKS[data.draw(st.sampled_from(list(BLOCKS)))]
    names = data.draw(st.lists(st.sampled_from(activations(network, EXAMPLE.double())), unique=True))
    hard = hardened(network, names)
    result = fold(hard, EXAMPLE.double())
    assert difference(result.model(noise()), hard(noise())) <= 1e-9
    assert {name for merge in result.folded for name in merge.activations} <= set(names)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(random_networks())
@pytest.mark.slow
def test_random_networks(network):
    """Folded as they are, where much is refused, and after hoisting, where nothing is left to refuse."""
    network, x, example = network.double(), noise(), EXAMPLE.double()
    expected = network(x)
    assert difference(fold(network, example).model(x), expected) <= 1e-9
    hard = hoist_padding(network, example)[0]
    assert hard(x).shape == expected.shape
    result = fold(hard, example)
    assert difference(result.model(x), hard(x)) <= 1e-9
    assert not any("hoist" in skipped.reason for skipped in result.skipped)


@pytest.mark.parametrize("kind", BLOCKS)
def test_float32_stays_float32(kind):
    network = copy.deepcopy(BLOCKS[kind]).float()
    hard = hardened(network, activations(network))
    result = fold(hard, EXAMPLE)
    assert {p.dtype for p in result.model.parameters()} == {torch.float32}
    x = noise(dtype=torch.float32)
    assert difference(result.model(x), hard(x)) <= 1e-5


def test_one_dimension_and_three():
    for axes, (convolution, norm) in {1: (nn.Conv1d, nn.BatchNorm1d), 3: (nn.Conv3d, nn.BatchNorm3d)}.items():
        net = (
            nn.Sequential(convolution(2, 3, 3, 2), norm(3, affine=False), convolution(3, 2, 2), norm(2)).double().eval()
        )
        x = torch.randn(2, 2, *(9,) * axes, dtype=torch.float64)
        result = fold(net, x)
        assert [merge.kernel for merge in result.folded] == [(5,) * axes]
        assert difference(result.model(x), net(x)) <= 1e-9


def test_linear_layers():
    net = nn.Sequential(nn.Linear(5, 7, bias=False), removed_activation(), nn.BatchNorm1d(7), nn.Linear(7, 3))
    net = randomised(net).double()
    x = torch.randn(4, 5, dtype=torch.float64)
    result = fold(net, x)
    (layer,) = [m for m in result.model.modules() if isinstance(m, nn.Linear)]
    assert layer.weight.shape == (3, 5)
    assert difference(result.model(x), net(x)) <= 1e-9


def test_the_model_is_not_modified():
    network = hardened(copy.deepcopy(BLOCKS["chain"]).float(), ["1.2"])
    before, structure = copy.deepcopy(network.state_dict()), repr(network)
    result = fold(network, EXAMPLE)
    with torch.no_grad():
        for p in result.model.parameters():
            p.add_(1)
    assert result.folded
    assert repr(network) == structure
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert list(network.state_dict()) == list(before)


def test_what_is_not_merged_keeps_its_names():
    network = hardened(BLOCKS["chain"], ["1.2"])
    result = fold(network, EXAMPLE.double())
    (merged,) = result.folded
    assert merged.layers == ("1.0", "1.3")
    assert merged.name == "1.0_3"
    gone = ("1.0.", "1.1.", "1.3.", "1.4.")
    old = {name: value for name, value in network.state_dict().items() if not name.startswith(gone)}
    new = result.model.state_dict()
    assert new.keys() == old.keys() | {"1.0_3.weight", "1.0_3.bias"}
    assert all(torch.equal(new[name], value) for name, value in old.items())
    assert not any(module.training for module in result.model.modules())


def test_names_of_layers_in_different_places_join():
    network = nn.Sequential()
    network.add_module("stem", nn.Sequential(conv(WIDTH, 4), removed_activation()))
    network.add_module("stem_head", conv(4, 4, padding=0))
    network.add_module("head", nn.Sequential(conv(4, 4, 1)))
    (merged,) = fold(network.eval(), EXAMPLE).folded
    assert merged.name == "stem_0_stem_head_head_0"


def test_a_taken_name_gets_a_suffix():
    network = nn.Sequential(conv(WIDTH, 4), removed_activation(), conv(4, 4, padding=0), nn.ReLU()).eval()
    network.add_module("0_2", conv(4, 4))
    (merged,) = fold(network, EXAMPLE).folded
    assert merged.name == "0_2_1"


def test_a_second_fold_finds_nothing_left():
    network = fold(hardened(BLOCKS["nested"], activations(BLOCKS["nested"], EXAMPLE.double())), EXAMPLE.double()).model
    result = fold(network, EXAMPLE.double())
    assert result.folded == []
    assert result.model.code == network.code


def test_the_result_trains():
    network = hardened(copy.deepcopy(BLOCKS["resnet option B"]).float(), ["1.relu"])
    result = fold(network, EXAMPLE)
    result.model.train()
    result.model(noise(dtype=torch.float32)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in result.model.parameters())
    optimizer = torch.optim.SGD(result.model.parameters(), 1e-3)
    optimizer.step()
    copy.deepcopy(result.model)


@pytest.mark.parametrize("frozen", [(), (0,), (0, 2)], ids=["none", "one", "all"])
def test_merged_layers_are_frozen_if_all_that_they_replace_were(frozen):
    network = pair()
    for i in frozen:
        network[i].requires_grad_(False)
    result = fold(network, EXAMPLE)
    assert {p.requires_grad for p in result.model.parameters()} == {len(frozen) < 2}


def test_a_trainable_batch_norm_keeps_its_merged_layer_trainable():
    network = nn.Sequential(conv(WIDTH, 6), removed_activation(), conv(6, 5, padding=0), nn.BatchNorm2d(5)).eval()
    network[0].requires_grad_(False)
    network[2].requires_grad_(False)
    assert all(p.requires_grad for p in fold(network, EXAMPLE).model.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtype_is_kept(dtype):
    network = pair().to(dtype)
    result = fold(network, EXAMPLE.to(dtype))
    assert {p.dtype for p in result.model.parameters()} == {dtype}
    assert result.max_error <= 1e-9


def test_channels_last_is_kept_even_where_the_first_kernel_is_1x1():
    network = nn.Sequential(
        conv(WIDTH, 6, 1), removed_activation(), conv(6, 5, padding=0), nn.ReLU(), conv(5, 5)
    ).eval()
    network = network.to(memory_format=torch.channels_last)
    result = fold(network, EXAMPLE)
    assert result.folded
    for p in result.model.parameters():
        assert p.ndim != 4 or p.is_contiguous(memory_format=torch.channels_last)
    x = noise(dtype=torch.float32).to(memory_format=torch.channels_last)
    assert result.model(x).is_contiguous(memory_format=torch.channels_last)
    assert all(p.is_contiguous() for p in fold(pair(), EXAMPLE).model.parameters())


def test_uneven_padding_gets_a_layer_of_its_own():
    network = nn.Sequential(nn.ZeroPad2d((2, 0, 1, 3)), *pair()).double().eval()
    result = fold(network, EXAMPLE.double())
    (merged,) = result.folded
    pads = {name: module for name, module in result.model.named_modules() if isinstance(module, nn.ZeroPad2d)}
    assert {name: pad.padding for name, pad in pads.items()} == {f"{merged.name}_pad": (3, 1, 2, 4)}
    assert difference(result.model(noise()), network(noise())) <= 1e-9


def test_two_regions_in_a_row():
    network = nn.Sequential(*pair(), nn.ReLU(), *pair(5), nn.ReLU()).double().eval()
    result = fold(network, EXAMPLE.double())
    assert [merge.layers for merge in result.folded] == [("0", "2"), ("4", "6")]
    assert difference(result.model(noise()), network(noise())) <= 1e-9


def test_several_outputs():
    network = Calls(lambda m, x: {"a": m.a(x), "b": (m.b(m.a(x)).relu(), x.shape[0], None)}, a=pair(), b=pair(5))
    result = fold(network.double().eval(), EXAMPLE.double())
    assert [merge.layers for merge in result.folded] == [("b.0", "b.2")]  # "a" is used twice
    expected, actual = network(noise()), result.model(noise())
    assert difference(actual["a"], expected["a"]) <= 1e-9
    assert difference(actual["b"][0], expected["b"][0]) <= 1e-9
    assert actual["b"][1:] == (2, None)


@pytest.mark.parametrize(
    ("prepare", "what"),
    [
        (lambda net: net.train(), "the network is in training mode"),
        (lambda net: net[0][1].train(), "layer 0.1 is in training mode"),
    ],
    ids=["network", "one BatchNorm"],
)
def test_training_mode_is_refused(prepare, what):
    network = with_ends(chain())
    prepare(network)
    with pytest.raises(InputError, match=rf"{what}.*\.eval\(\)"):
        fold(network, EXAMPLE)


def test_an_input_that_does_not_fit_is_refused():
    with pytest.raises(InputError, match=r"does not accept an input of shape \[2, 3, 9, 9\]"):
        fold(pair(), torch.zeros(2, 3, 9, 9))


def test_nothing_to_fold():
    network = with_ends(chain())
    result = fold(network, EXAMPLE)
    assert result.folded == []
    assert result.max_error == 0
    reasons = {skipped.layer: skipped.reason for skipped in result.skipped}
    assert reasons["1.3"] == "the activation 1.2 (ReLU) comes before it"
    assert reasons["2.3"] == "2.2 (Flatten) is not linear"
    assert difference(result.model(EXAMPLE + 1), network(EXAMPLE + 1)) == 0


def test_merge_on_the_meta_device_gives_the_structure():
    network = copy.deepcopy(BLOCKS["inverted skip"]).float()
    network = hardened(network, activations(network))
    expected = fold(network, EXAMPLE).model.state_dict()
    traced = trace(network.to("meta"), EXAMPLE.to("meta"))
    merged, names = merge(traced, exact_regions(traced).found)
    state = merged.state_dict()
    assert {name: value.shape for name, value in state.items()} == {n: v.shape for n, v in expected.items()}
    assert all(f"{name}.weight" in state for name in names)


def test_a_skip_from_further_back_than_the_region():
    """The sum has two anchors, so the last layer of the body is not merged with it; the body itself is."""
    body = Skip(nn.Sequential(nn.ReLU(), *pair(), removed_activation(), conv(5, WIDTH, padding=2)))
    network = nn.Sequential(conv(WIDTH, WIDTH), nn.ReLU(), body)
    network = hoist_padding(network.double().eval(), EXAMPLE.double())[0]
    result = fold(network, EXAMPLE.double())
    assert [merge.layers for merge in result.folded] == [("2.body.1", "2.body.3", "2.body.5")]
    assert difference(result.model(noise()), network(noise())) <= 1e-9
