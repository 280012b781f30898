"""Fitted layers as alternatives: which shapes are in question, and that what is timed is what folding makes of them."""

import pytest
import torch
from torch import nn

from layer_folding import fit, fold
from layer_folding.fold.models import build
from layer_folding.fold.plan.candidates import Candidate, candidates, merges_of, segments
from tests.fold.networks import EXAMPLE, WIDTH, Skip, blocks, conv, with_ends


def of(model: nn.Module, *activations: str, example: torch.Tensor = EXAMPLE, max_growth: float = 2.0) -> Candidate:
    return next(c for c in candidates(model, example, max_growth).found if c.merge.activations == activations)


def shapes(candidate: Candidate) -> list:
    return [alternative.shape for alternative in candidate.alternatives if alternative.shape is not None]


def between(*layers: nn.Module) -> nn.Sequential:
    """``layers`` with a ReLU between any two; the first of these has the name "1"."""
    return nn.Sequential(*(m for layer in layers for m in (layer, nn.ReLU())))[:-1].eval()


def test_of_a_residual_block():
    block = of(blocks()["resnet identity"], "1.relu")
    assert block.exact and block.exact.kernel == (5, 5)
    assert shapes(block) == [(1, 1), (3, 3), "merged", "none"]
    fitted = {each.shape: each for each in block.alternatives if each.shape}
    assert [each.kernel for each in fitted.values()] == [(1, 1), (3, 3), (5, 5), ()]
    macs = 9 * WIDTH**2 * 15 * 13
    assert [fitted[shape].macs for shape in ((3, 3), "none")] == [(2 * macs, macs), (2 * macs, 0)]
    assert [each.full_reach for each in fitted.values()] == [False, True, True, False]
    assert fitted["merged"].segment == block.exact.segment  # the same work, so nothing more to time
    assert fitted[3, 3].segment == "fit3x3 1,3" and fitted["none"].segment == "none 1,3"


def test_depthwise_where_a_layer_has_groups():
    assert shapes(of(blocks()["inverted skip"], "1.expand.act", "1.depthwise.act")) == [
        (1, 1), "merged", "depthwise", "none",
    ]  # fmt: skip
    assert shapes(of(blocks()["inverted stride 2"], "1.expand.act", "1.depthwise.act")) == [(1, 1), "merged"]


def test_a_kernel_that_is_not_square_is_cropped_along_its_axes():
    model = between(nn.Conv2d(4, 4, (1, 5)), nn.Conv2d(4, 4, (1, 3)))
    assert shapes(of(model, "1")) == [(1, 1), (1, 3), (1, 5), "merged"]
    line = between(nn.Conv1d(4, 4, 3), nn.Conv1d(4, 4, 3))
    assert shapes(of(line, "1", example=torch.zeros(1, 4, 20))) == [1, 3, "merged"]


def test_where_the_exact_merge_is_too_costly_a_smaller_layer_is_found():
    bottleneck = Skip(between(conv(WIDTH, 1, 1), conv(1, 1), conv(1, WIDTH, 1)))
    block = of(with_ends(bottleneck), "1.body.1", "1.body.3")
    assert block.merge.macs[1] > 2 * block.merge.macs[0] and block.exact is None
    assert shapes(block) == [(1, 1), "none"]
    assert all(each.macs[1] <= 2 * block.merge.macs[0] for each in block.alternatives)
    assert shapes(of(with_ends(bottleneck), "1.body.1", "1.body.3", max_growth=100))[1] == "merged"


@pytest.mark.slow
def test_a_layer_stands_for_few_activations():
    example = torch.zeros(1, 3, 32, 32)
    found = candidates(build("resnet20", 10).eval(), example).found
    two = next(c for c in found if c.merge.activations == ("layer1.0.relu", "layer1.0.relu_1", "layer1.1.relu"))
    assert two.exact is None and shapes(two) == [(1, 1), (3, 3), "none"]
    assert not any(shapes(c) for c in found if len(c.merge.activations) > 4)


@pytest.mark.parametrize("name", ["resnet identity", "resnet option B", "inverted skip"])
@pytest.mark.slow
def test_what_is_timed_is_what_folding_makes_of_the_fit(name):
    torch.manual_seed(0)
    model, images = blocks()[name], torch.randn(64, *EXAMPLE.shape[1:])
    parts = {part.name: part.module for part in segments(model, EXAMPLE)}
    inside = [c for c in candidates(model, EXAMPLE).found if all(a.startswith("1.") for a in c.merge.activations)]
    for choice, segment in [(each.choice, each.segment) for c in inside for each in c.alternatives if each.choice]:
        fitted = fit(model, images, {choice.activations: choice.shape}, tuned=False, force=True).model.eval()
        folded = kinds(fold(fitted, EXAMPLE).model)
        assert all(layer in folded for layer in kinds(parts[segment])), choice


def kinds(model: nn.Module) -> list[str]:
    return [repr(layer) for layer in model.modules() if isinstance(layer, (nn.Conv2d, nn.BatchNorm2d))]


def test_fits_and_merges_become_what_was_planned():
    model = blocks()["resnet option B"]
    block, stem = of(model, "1.relu"), of(model, "0.2", "1.relu")
    for alternative in block.alternatives:
        if alternative.choice and alternative.shape != "none":
            assert merges_of(model, EXAMPLE, (), [alternative.choice]) == {block.merge.layers}
    assert merges_of(model, EXAMPLE, stem.merge.activations) == {stem.merge.layers}
