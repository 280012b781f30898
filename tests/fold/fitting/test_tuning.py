"""The last step of a fit: closer to the outputs of the original network, or nothing at all."""

import pytest
import torch
from torch import nn

import layer_folding as lf
from tests.fold.fitting.test_network_fit import IMAGES, network, pair
from tests.fold.networks import Skip

NAMES = ("1.0.body.2", "1.2.body.2")


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return network(Skip(pair()), nn.ReLU(), Skip(pair()))


def test_the_divergence_falls_on_images_held_out(model):
    choices = dict.fromkeys(NAMES, 1)
    as_fitted, tuned = (lf.fit(model, IMAGES, choices, tuned=tuned) for tuned in (False, True))
    assert tuned.divergence < 0.9 * as_fitted.divergence
    assert [layer.error for layer in tuned.layers] == [layer.error for layer in as_fitted.layers]


def test_all_weights_follow_for_some_epochs(model):
    tuned, distilled = (lf.fit(model, IMAGES, dict.fromkeys(NAMES, 1), epochs=epochs) for epochs in (0, 12))
    assert distilled.divergence < 0.95 * tuned.divergence
    before = distilled.before_epochs
    assert tuned.before_epochs is None and before is not None
    assert before.divergence == pytest.approx(tuned.divergence) and before.agreement == tuned.agreement
    first = [result.model.get_submodule("0.0").weight for result in (tuned, distilled)]
    assert not first[0].equal(first[1])
    assert not any(module.training for module in distilled.model.modules())


def test_the_divergence_reported_is_that_of_the_network_returned(model):
    result = lf.fit(model, IMAGES, dict.fromkeys(NAMES, 1))
    held_out = IMAGES[::8]
    with torch.no_grad():
        expected, actual = (network.eval()(held_out).log_softmax(1) for network in (model, result.model))
    divergence = (expected.exp() * (expected - actual)).sum(1).mean().item()
    assert result.divergence == pytest.approx(divergence, rel=1e-9)
    assert result.agreement == (expected.argmax(1) == actual.argmax(1)).double().mean().item()


def test_where_nothing_helps_nothing_changes():
    """What the block adds to its skip is zero, so the fit is exact."""
    exact = network(Skip(pair()))
    with torch.no_grad():
        exact[1][0].body[3].weight.zero_()
        exact[1][0].body[3].bias.zero_()
    as_fitted, tuned = (lf.fit(exact, IMAGES, {NAMES[0]: 3}, tuned=tuned) for tuned in (False, True))
    assert as_fitted.divergence < 1e-12
    assert tuned.divergence <= as_fitted.divergence


def test_what_comes_before_the_first_fitted_layer_stays(model):
    result = lf.fit(model, IMAGES, {NAMES[1]: 1})
    for name in ("0.0", "0.1", "1.0.body.0", "1.0.body.1", "1.0.body.3"):
        theirs, ours = (each.get_submodule(name).state_dict() for each in (model, result.model))
        assert all(theirs[key].equal(ours[key]) for key in theirs)


def test_it_is_the_same_every_time_and_needs_no_gradients_enabled(model):
    with torch.no_grad():
        one = lf.fit(model, IMAGES, {NAMES[0]: 1}).model
    torch.manual_seed(5)
    other = lf.fit(model, IMAGES, {NAMES[0]: 1}).model
    assert all(one.state_dict()[name].equal(value) for name, value in other.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in one.parameters())


def test_the_momentum_of_batch_norms_stays(model):
    result = lf.fit(model, IMAGES, {NAMES[0]: 1})
    assert {module.momentum for module in result.model.modules() if isinstance(module, nn.BatchNorm2d)} == {0.1}


@pytest.mark.parametrize("count", [75, 148])
def test_no_batch_is_of_one_image(count):
    """From one image, a BatchNorm behind a linear layer can take no statistics."""
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 8), nn.BatchNorm1d(8))
    convolutions = [nn.Sequential(nn.Conv2d(c, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()) for c in (3, 4)]
    images = torch.randn(count, 3, 8, 8)
    result = lf.fit(nn.Sequential(*convolutions, pooled).eval(), images, {"0.2": 3}, force=True)
    assert all(value.isfinite().all() for value in result.model.state_dict().values())
