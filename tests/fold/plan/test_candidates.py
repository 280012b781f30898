from itertools import combinations

import pytest
import torch
from torch import nn

import layer_folding as lf
from layer_folding.errors import InputError
from layer_folding.fold import hoist_padding
from layer_folding.fold.graph.nodes import is_activation
from layer_folding.fold.graph.tracing import trace
from layer_folding.fold.models import build
from layer_folding.fold.models.mobilenet import InvertedResidual
from layer_folding.fold.plan.candidates import candidates, merges_of, segments
from layer_folding.fold.plan.measured_loss import loss_of
from layer_folding.fold.regions.finding import exact_regions, hoisted_regions
from tests.fold.networks import EXAMPLE, activations, blocks, conv, randomised, with_ends, without


def vgg(*widths: int) -> nn.Sequential:
    layers = [layer for i, o in zip((4, *widths), widths, strict=False) for layer in (conv(i, o), nn.ReLU())]
    return randomised(nn.Sequential(*layers))


def layers_of(model, example=EXAMPLE):
    return {
        candidate.merge.layers: candidate.merge.activations for candidate in candidates(model, example, 100.0).found
    }


def test_a_chain_has_every_interval():
    model = vgg(4, 5, 6, 4)
    expected = {
        tuple(str(2 * layer) for layer in range(st, end)): tuple(str(2 * layer + 1) for layer in range(st, end - 1))
        for st, end in combinations(range(5), 2)
        if end - st > 1
    }
    assert layers_of(model) == expected
    names = {(c.exact.segment, c.apart) for c in candidates(model, EXAMPLE, 100.0).found}
    assert names == {(f"{st},{end}", f"apart {st},{end}") for st, end in combinations(range(5), 2) if end - st > 1}


def test_inside_a_skip_and_across_it():
    found = layers_of(with_ends(InvertedResidual(4, 4, 1, 3)))
    expand, depthwise, project = (f"1.{part}.conv" for part in ("expand", "depthwise", "project"))
    assert found[expand, depthwise] == ("1.expand.act",)
    assert found[depthwise, project] == ("1.depthwise.act",)
    assert found[expand, depthwise, project] == ("1.expand.act", "1.depthwise.act")
    stem = next(layers for layers in found if layers[0] == "0.0" and project in layers)
    assert len(stem) == 4 and len(found[stem]) == 3


def brute_force(model):
    """Every region that some set of activations, all of which it needs, opens: layers and the smallest such sets."""
    traced = trace(model, EXAMPLE)
    nodes = [node for node in traced.graph.nodes if is_activation(node)]
    found: dict[tuple[str, ...], set[frozenset[str]]] = {}
    for count in range(1, len(nodes) + 1):
        for gone in combinations(nodes, count):
            opened = [r for r in hoisted_regions(traced, gone).found if r.removed]
            if len(opened) == 1 and set(opened[0].removed) == set(gone):
                sets = found.setdefault(tuple(node.target for node in opened[0].layers), set())
                if not sets or count == len(min(sets, key=len)):
                    sets.add(frozenset(node.target for node in gone))
    return found


@pytest.mark.parametrize("name", blocks())
def test_equals_brute_force_over_all_sets(name):
    model = blocks()[name]
    expected, found = brute_force(model), layers_of(model)
    assert set(found) == set(expected)
    for layers, gone in found.items():
        assert frozenset(gone) in expected[layers]


@pytest.mark.slow
def test_candidates_that_do_not_share_a_number_fold_as_planned():
    model = build("mobilenetv2-digits", 10, 1).eval()
    example = torch.zeros(1, 1, 16, 16)
    found = candidates(model, example).found
    for one, other in combinations(found, 2):
        if not one.occupies & other.occupies:
            removed = (*one.merge.activations, *other.merge.activations)
            assert merges_of(model, example, removed) == {one.merge.layers, other.merge.layers}


def test_two_that_would_merge_into_a_third_exclude_each_other():
    # between the two pairs there is no activation, and 1x1 layers merge without more multiply-accumulates
    layers = [conv(4, 4, 1), nn.ReLU(), conv(4, 4, 1), conv(4, 4, 1), nn.ReLU(), conv(4, 4, 1), nn.ReLU()]
    found = candidates(randomised(nn.Sequential(*layers)), EXAMPLE).found
    for one, other in combinations(found, 2):
        assert one.occupies & other.occupies


def test_costly_merges_are_no_candidates():
    model = with_ends(InvertedResidual(4, 4, 1, 6))
    pair = ("1.expand.conv", "1.depthwise.conv")
    found = {limit: candidates(model, EXAMPLE, limit).found for limit in (2.0, 100.0)}
    by_growth = {limit: [c.merge for c in some if c.exact] for limit, some in found.items()}
    assert pair not in [merge.layers for merge in by_growth[2.0]]
    assert pair in [merge.layers for merge in by_growth[100.0]]
    assert all(merge.macs[1] <= 2 * merge.macs[0] for merge in by_growth[2.0])


def weighted(module: nn.Module) -> int:
    return sum(isinstance(layer, (nn.Conv2d, nn.Linear)) for layer in module.modules())


@pytest.mark.parametrize(
    "name", ["chain", *(pytest.param(n, marks=pytest.mark.slow) for n in blocks() if n != "chain")]
)
def test_segments_compute_what_they_stand_for(name):
    model = blocks()[name]
    parts = {part.name: (part.module, part.input_shape) for part in segments(model, EXAMPLE)}
    found = candidates(model, EXAMPLE)
    named = {name for c in found.found for name in (c.apart, *(each.segment for each in c.alternatives))}
    assert named | {found.whole} == set(parts)
    whole, shape = parts[found.whole]
    x = torch.randn(2, *shape)
    torch.testing.assert_close(whole(x), model(x))
    for candidate in found.found:
        apart, shape = parts[candidate.apart]
        x = torch.randn(2, *shape)
        before = weighted(apart)
        for alternative in candidate.alternatives:
            merged, same = parts[alternative.segment]
            assert shape == same == candidate.input_shape
            assert merged(x).shape == apart(x).shape and merged(x).isfinite().all()
            assert before - weighted(merged) >= len(candidate.merge.layers) - 1


def test_a_merged_segment_has_the_shape_of_the_folded_network():
    model = blocks()["inverted skip"]
    candidate = next(c for c in candidates(model, EXAMPLE).found if len(c.merge.layers) == 3)
    merged = next(part.module for part in segments(model, EXAMPLE) if part.name == candidate.exact.segment)
    hoisted, _ = hoist_padding(without(model, candidate.merge.activations), EXAMPLE)
    (region,) = (r for r in exact_regions(trace(hoisted, EXAMPLE)).found if r.removed)
    layer = next(m for m in merged.modules() if isinstance(m, nn.Conv2d))
    assert (layer.kernel_size, layer.in_channels, layer.out_channels, layer.padding[0]) == (
        region.geometry.kernel,
        region.geometry.in_channels,
        region.geometry.out_channels,
        region.geometry.padding[0][0],
    )


@pytest.mark.slow
def test_equal_shapes_are_measured_once():
    model, example = build("resnet20", 10).eval(), torch.zeros(1, 3, 32, 32)
    found = candidates(model, example).found
    names = [part.name for part in segments(model, example)]
    assert len(set(names)) == len(names) < 3 * len(found)
    first, second = (next(c for c in found if c.merge.activations == (f"layer1.{i}.relu",)) for i in (0, 1))
    assert (first.exact.segment, first.apart) == (second.exact.segment, second.apart) == ("1,3", "apart 1,3")
    other = next(c for c in found if c.merge.activations == ("layer2.1.relu",))
    assert other.exact.segment != first.exact.segment and other.apart != first.apart


@pytest.mark.slow
def test_the_network_is_not_modified():
    model = blocks()["chain"]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    names = activations(model)
    for part in segments(model, EXAMPLE):
        part.module(torch.randn(2, *part.input_shape))
    assert activations(model) == names
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class TwoHeads(nn.Module):
    """A body, and heads that part behind it: a dictionary with a list inside."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(conv(4, 4), nn.ReLU(), conv(4, 4), nn.ReLU())
        self.box, self.first, self.relu, self.second = conv(4, 2), conv(4, 4), nn.ReLU(), conv(4, 3)

    def forward(self, x):
        x = self.body(x)
        return {"box": self.box(x), "more": [self.second(self.relu(self.first(x)))]}


def test_several_outputs_end_the_spans_behind_which_they_part():
    model = TwoHeads().eval()
    found = candidates(model, EXAMPLE)
    parts = {part.name: part for part in segments(model, EXAMPLE)}
    whole = parts[found.whole].module(EXAMPLE)
    torch.testing.assert_close(whole, model(EXAMPLE))
    merged = {candidate.merge.activations: candidate for candidate in found.found}
    assert {("body.1",), ("relu",)} <= merged.keys()
    inside, behind = (parts[merged[names].apart] for names in (("body.1",), ("relu",)))
    assert isinstance(inside.module(torch.zeros(2, *inside.input_shape)), torch.Tensor)
    assert behind.module(torch.zeros(2, *behind.input_shape)).keys() == {"box", "more"}
    loses = lf.importance(model, torch.randn(64, *EXAMPLE.shape[1:]))
    assert loses.unit == "squared error over variance by 64 images"
    assert loses.of(["relu"], 3) is not None and loses.of(["body.1"], 3) is not None


def test_labels_are_refused_for_several_outputs():
    model, images = TwoHeads().eval(), torch.randn(64, *EXAMPLE.shape[1:])
    labels = torch.zeros(64, dtype=torch.long)
    with pytest.raises(InputError, match="labels: the network gives a dict, not scores of classes"):
        lf.importance(model, images, labels=labels)
    with pytest.raises(InputError, match=r"\[N, classes\], not a dict; give the images alone"):
        loss_of(model, images, labels)


@pytest.mark.parametrize("given", [lambda x: x, lambda x: 3, lambda x: {"size": x.shape[2]}, torch.relu])
def test_a_network_that_gives_no_value_of_a_layer_is_refused(given):
    class Unread(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))

        def forward(self, x):
            self.layers(x)
            return given(x)

    with pytest.raises(InputError, match="depend on no layer with weights"):
        candidates(Unread(), EXAMPLE)
