"""What LayerMerge (Kim et al., ICML 2024) published for MobileNetV2 is one of the networks that can be chosen here."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from layer_folding.fold import fit, fold
from layer_folding.fold.model_names import build
from layer_folding.fold.plan.candidates import candidates

PUBLISHED = Path(__file__).parents[3].parent / "shared/peers/layermerge-mbv2-tl13.4.json"
STAGES = range(1, 18)  # features.1 to features.17, the inverted residuals


def paths() -> tuple[list[str], dict[int, str]]:
    """The convolutions by their number in LayerMerge, and the activations by the number of the one before it."""
    convolutions, activations = ["features.0.0", "features.1.conv.0.0", "features.1.conv.1"], {0: "features.0.2"}
    activations[1] = "features.1.conv.0.2"
    for stage in STAGES[1:]:
        for part in (0, 1):
            activations[len(convolutions)] = f"features.{stage}.conv.{part}.2"
            convolutions.append(f"features.{stage}.conv.{part}.0")
        convolutions.append(f"features.{stage}.conv.2")
    return [*convolutions, "features.18.0"], activations


def chosen() -> dict[tuple[str, ...], int]:
    """The published choice: of each segment the activations that go, and the kernel that the printed layer has."""
    if not PUBLISHED.exists():
        pytest.skip(f"needs ../shared/peers/{PUBLISHED.name}, which is not here")
    published = json.loads(PUBLISHED.read_text())
    _, activations = paths()
    ends = published["act_pos"]
    choices = {}
    for before, end in itertools.pairwise(ends):
        inside = range(before + 1, end + 1)
        gone = tuple(activations[i] for i in inside[:-1] if i in activations)
        kept = [i for i in inside if i in published["conv_pos"]]
        if gone:
            depthwise = {i for i in kept if i == 1 or (i > 2 and i % 3 == 1)}
            choices[gone] = 1 + 2 * len(depthwise)  # the stride of 2 is that of the last kernel
    return choices


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return build("torchvision:mobilenet_v2", {"num_classes": 10}).eval()


@pytest.mark.slow
def test_it_is_in_the_candidate_space(network):
    choices = chosen()
    assert len(choices) == 6
    found = candidates(network, torch.zeros(1, 3, 64, 64)).found
    offered = {(frozenset(a.changes), a.kernel) for candidate in found for a in candidate.alternatives if a.choice}
    for gone, kernel in choices.items():
        assert (frozenset(gone), (kernel, kernel)) in offered


@pytest.mark.slow
def test_carried_out_it_is_the_printed_network(network):
    choices = chosen()
    images = torch.randn(64, 3, 64, 64)
    fitted = fit(network, images, choices, tuned=False, force=True).model.eval()
    printed = [line.partition(": ")[2] for line in json.loads(PUBLISHED.read_text())["merged_layers_printed"]]
    called = (fitted.get_submodule(node.target) for node in fitted.graph.nodes if node.op == "call_module")
    layers = (module for module in called if isinstance(module, nn.Conv2d))
    assert [described(layer, line) for layer, line in zip(layers, printed, strict=False)] == printed
    folded = fold(fitted, images[:1]).model  # merges some of them further: LayerMerge adds activations between
    with torch.no_grad():
        assert torch.allclose(folded(images[:2]), fitted(images[:2]), rtol=1e-3, atol=1e-3)


def described(layer: nn.Conv2d, like: str) -> str:
    """``layer`` in the words of the published table, which leaves out the stride of pointwise layers, and the inputs of
    depthwise ones."""
    kernel, stride = layer.kernel_size[0], f" s{layer.stride[0]}" if " s" in like else ""
    if layer.groups > 1:
        return f"dw {kernel}x{kernel}{stride} {layer.out_channels}"
    return f"{kernel}x{kernel}{stride} {layer.in_channels}->{layer.out_channels}"
