"""Plans under a bound of the measured loss: `lf.plan(max_loss=)`."""

import itertools
import random

import pytest
import torch
from torch import nn

import layer_folding as lf
from layer_folding.fit_choices import Choice
from layer_folding.fold.plan.bounded import NEIGHBOURS, fastest_within
from layer_folding.fold.plan.candidates import candidates
from layer_folding.fold.plan.measured_loss import NATS, POINTS, VARIANCES, loss_of
from layer_folding.fold.plan.presenting import as_text, draw
from layer_folding.plans import write_plan
from tests.fold.plan.latency_tables import table_of

EXAMPLE = torch.zeros(1, 3, 8, 8)
FITS = {Choice(("1",), (3, 3)): 0.4, Choice(("5",), (3, 3)): 0.3}


def block(channels: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(*block(3), nn.ReLU(), *block(3), nn.Flatten(), nn.Linear(192, 5)).eval()
    for layer in network:
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.bias.data.zero_()  # else it alone says the class
    return network


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(128, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def held_out(model) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of which the network has three in four right."""
    shown = torch.randn(200, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        labels = model(shown).argmax(1)
    return shown, torch.where(torch.arange(200) % 4 == 0, (labels + 1) % 5, labels)


def planned(model, **given) -> lf.Plan:
    importance = lf.Importance({}, "points", fits=dict.fromkeys(FITS, 1.0))
    return lf.plan(model, EXAMPLE, table_of(candidates(model, EXAMPLE), {}, FITS), importance=importance, **given)


def test_the_plan_is_the_fastest_whose_measured_loss_is_within_the_bound(model, images, held_out):
    loose = planned(model, max_loss=100.0, images=images, held_out=held_out)
    assert loose.latency_ms == pytest.approx(loose.frontier[0].latency_ms) and len(loose.fits) == 2
    assert loose.max_loss.unit == POINTS and (loose.max_loss.images, loose.max_loss.fitted_images) == (200, 128)
    fitted = lf.fit(model, images, loose).model.eval()
    with torch.no_grad():
        right = (fitted(held_out[0]).argmax(1) == held_out[1]).float().mean().item()
    loss = loose.max_loss.loss
    assert loss.value == pytest.approx(100 * (0.75 - right), abs=1e-4) and loss.value > 0 < loss.error
    below = planned(model, max_loss=loss.value - 0.4, images=images, held_out=held_out)
    assert below.latency_ms > loose.latency_ms
    assert below.max_loss.loss.value <= below.max_loss.most
    assert below.frontier[0].loss == loss  # tried, and beyond


def test_without_labels_the_loss_is_a_divergence(model, images, held_out):
    plan = planned(model, max_loss=1e9, images=images, held_out=held_out[0])
    assert plan.max_loss.unit == NATS and plan.max_loss.loss.value > 0


class Heads(nn.Module):
    """The outputs of a detector: boxes and scores in a dictionary, behind two blocks."""

    def __init__(self, body: nn.Sequential) -> None:
        super().__init__()
        self.body = body
        self.boxes, self.scores = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 2, 1)

    def forward(self, x):
        x = self.body(x)
        return {"boxes": self.boxes(x), "more": [self.scores(x).flatten(2)]}


def test_a_detector_has_plans_within_a_share_of_the_variance_of_its_outputs(model, images, held_out):
    torch.manual_seed(0)
    detector = Heads(model[:7]).eval()
    fits = {Choice(tuple(f"body.{name}" for name in choice.activations), choice.shape) for choice in FITS}
    table = table_of(candidates(detector, EXAMPLE), {}, dict.fromkeys(fits, 0.4))
    importance = lf.Importance({}, "points", fits=dict.fromkeys(fits, 1.0))
    given = {"importance": importance, "images": images, "held_out": held_out[0]}
    loose = lf.plan(detector, EXAMPLE, table, max_loss=100.0, **given)
    assert len(loose.fits) == 2 and loose.max_loss.unit == VARIANCES
    fitted = lf.fit(detector, images, loose).model.eval()
    assert loose.max_loss.loss == loss_of(detector, held_out[0], None).of(fitted)
    assert 0 < loose.max_loss.loss.value < 1 and f"at most 100 {VARIANCES}" in as_text(loose)
    assert lf.plan(detector, EXAMPLE, table, max_loss=0.0, **given).merges == ()


def test_a_constant_network_loses_one_variance():
    detector, images = nn.Conv2d(3, 2, 1), torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    network = Heads(nn.Sequential(detector, nn.Conv2d(2, 3, 1))).eval()
    with torch.no_grad():
        means = {"boxes": network(images)["boxes"].mean((0, 2, 3)), "scores": network(images)["more"][0].mean((0, 2))}
    constant = Heads(network.body)
    for name, mean in means.items():
        head = getattr(constant, name)
        head.weight.data.zero_()
        head.bias.data.copy_(mean)
    loss = loss_of(network, images, None).of(constant)
    assert loss.value == pytest.approx(1, abs=1e-3) and 0 < loss.error < 0.2


def test_where_no_plan_is_within_the_bound_the_network_is_kept(model, images, held_out):
    plan = planned(model, max_loss=0.0, images=images, held_out=held_out[0])
    assert plan.merges == () and plan.speedup == 1 and plan.max_loss.loss.value == 0
    assert all(point.loss.value > 0 for point in plan.frontier if point.loss)


def test_what_was_tried_is_written_read_printed_and_drawn(model, images, held_out, tmp_path):
    plan = planned(model, max_loss=100.0, images=images, held_out=held_out)
    write_plan(tmp_path / "plan.json", plan)
    assert lf.read_plan(tmp_path / "plan.json") == plan
    text = as_text(plan)
    assert "fitted to 128 images and measured on 200 others" in text and "at most 100 points of accuracy" in text
    [chosen] = [line for line in text.splitlines() if line.startswith("chosen")]
    assert f"{plan.max_loss.loss.value:.3g} +- {plan.max_loss.loss.error:.2g}" in chosen
    draw(tmp_path / "plan.png", plan)
    assert (tmp_path / "plan.png").stat().st_size > 1000


def test_a_plan_that_cannot_be_fitted_is_beyond_the_bound(model, held_out):
    plan = planned(model, max_loss=100.0, images=torch.randn(2, 3, 8, 8), held_out=held_out)
    assert plan.merges == () and all(point.loss is None for point in plan.frontier)
    assert "cannot be carried out by fits" in plan.notes[0] and "tried: fitted" in as_text(plan)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_loss": -1.0}, "max_loss -1.0: is not a number"),
        ({"max_loss": 0.5, "speedup": 1.1}, "speedup 1.1, max_loss 0.5: are limits of one plan"),
        ({"max_loss": 0.5}, "max_loss 0.5: is measured; give images"),
        ({"max_loss": 0.5, "images": EXAMPLE, "held_out": (EXAMPLE, torch.zeros(2))}, "1 images with 2 labels"),
    ],
)
def test_a_bound_needs_images_and_no_other_limit(model, given, message):
    with pytest.raises(lf.InputError, match=message):
        planned(model, **given)


def search(times: list[float], within: list[bool]) -> tuple[int, list[int]]:
    """What is found, and what was asked for it."""
    asked: list[int] = []

    def is_within(number: int) -> bool:
        asked.append(number)
        return within[number]

    return fastest_within(times, is_within), asked


def test_the_search_ends_beside_a_plan_that_is_beyond_and_looks_past_it():
    rng = random.Random(0)
    for count in (1, 2, 3, 5, 40):
        times = sorted(rng.uniform(1, 2) for _ in range(count))
        for _ in range(10):
            within = [rng.random() < i / count for i in range(count - 1)] + [True]
            found, asked = search(times, within)
            assert within[found] and len(asked) == len(set(asked)) and count - 1 not in asked
            assert not any(within[i] for i in asked if times[i] < times[found])
            assert len(asked) <= count.bit_length() + NEIGHBOURS


def test_plans_that_take_as_long_are_tried_as_one():
    times = [1 + i / 10000 for i in range(5000)] + [2.0]
    assert len(search(times, [i > 2000 for i in range(5001)])[1]) <= 10


def test_losses_are_those_of_pairs_of_predictions():
    before, after = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    before.weight.data, after.weight.data = torch.eye(2), torch.eye(2).flip(0)
    images = torch.tensor([[1.0, 0.0]] * 6 + [[0.0, 1.0]] * 4)
    labels = torch.tensor([0] * 10)  # the first is right on six, the second on the other four
    loss = loss_of(before, images, labels).of
    assert loss(before).value == 0 and loss(before).error > 0 and loss(after).value == pytest.approx(20)
    errors = [loss_of(before, images.repeat(n, 1), labels.repeat(n)).of(after).error for n in (1, 4, 16)]
    assert all(1.8 < a / b < 2.2 for a, b in itertools.pairwise(errors))
    divergence = loss_of(before, images, None).of
    assert divergence(before).value == 0 < divergence(after).value
