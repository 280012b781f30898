"""Fits in random networks: the same sizes and dtype, and a folded network that is the fitted one."""

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn

import layer_folding as lf
from tests.fold.networks import EXAMPLE, WIDTH, difference, random_networks

IMAGES = torch.randn(64, *EXAMPLE.shape[1:], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
NO_SUCH_SHAPE = "does not fit into|has as many outputs|needs a skip|are too few"


def with_activations(model: nn.Module) -> nn.Module:
    """``model`` with a ReLU wherever an activation was removed."""
    for name, module in list(model.named_modules()):
        if getattr(module, "removed", False):
            model.set_submodule(name, nn.ReLU())
    return model.double().eval()


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(random_networks(), st.sampled_from([1, 3, (3, 1), "merged", "depthwise", "none"]), st.integers(0, 9))
def test_random_networks(network, shape, which):
    model = with_activations(network)
    found = [each for each in lf.scan(model, IMAGES[:1]).candidates if each.activations]
    assume(found)
    chosen = found[which % len(found)]
    try:
        result = lf.fit(model, IMAGES, {chosen.activations: shape}, tuned=False, force=True)
    except lf.InputError as error:
        assert any(reason in str(error) for reason in NO_SUCH_SHAPE.split("|")), error
        assume(False)
    fitted = result.model.eval()
    assert fitted(IMAGES).shape == model(IMAGES).shape
    assert fitted(IMAGES).dtype is torch.float64
    assert set(result.layers[0].layers) <= set(chosen.layers)
    assert difference(lf.fold(fitted, IMAGES[:1]).model(IMAGES), fitted(IMAGES)) <= 1e-9
    assert IMAGES.shape[1] == WIDTH
