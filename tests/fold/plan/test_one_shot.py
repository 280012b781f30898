"""Best plans that are carried out by fits: what they lose stands in the frontier, in plan.json and in the text."""

import itertools
import json

import pytest
import torch
from torch import nn

import layer_folding as lf
from layer_folding.fit_choices import Choice
from layer_folding.fold.plan.candidates import candidates
from layer_folding.fold.plan.one_shot import MEASURED, spread
from layer_folding.fold.plan.presenting import as_text, draw
from layer_folding.plans import write_plan
from tests.fold.plan.latency_tables import table_of

EXAMPLE = torch.zeros(1, 3, 8, 8)


def block(channels: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*block(3), nn.ReLU(), *block(3), nn.Flatten(), nn.Linear(192, 5)).eval()


@pytest.fixture(scope="module")
def plan(model) -> lf.Plan:
    found = candidates(model, EXAMPLE)
    fits = {Choice(("1",), (3, 3)): 0.4, Choice(("5",), (3, 3)): 0.3}
    importance = lf.Importance({}, "points", fits=dict.fromkeys(fits, 1.0))
    images = torch.randn(128, 3, 8, 8)
    return lf.plan(model, EXAMPLE, table_of(found, {}, fits), importance=importance, images=images)


def test_points_that_were_carried_out_say_how_far_the_outputs_are_off(model, plan):
    measured = [point for point in plan.frontier if point.divergence is not None]
    assert measured == list(plan.frontier[:-1]) and plan.frontier[-1].latency_ms == plan.original_ms
    assert all(point.divergence > 0 and 0 < point.agreement <= 1 for point in measured)
    divergences = [point.divergence for point in measured]
    assert divergences == sorted(divergences, reverse=True)  # the fastest plan changes most


def test_what_was_measured_is_written_read_printed_and_drawn(plan, tmp_path):
    write_plan(tmp_path / "plan.json", plan)
    assert lf.read_plan(tmp_path / "plan.json") == plan
    first = json.loads((tmp_path / "plan.json").read_text())["frontier"][0]
    assert first["agreement"] == plan.frontier[0].agreement
    text = as_text(plan)
    assert "carried out by least squares" in text and f"{100 * plan.frontier[0].agreement:.1f} %" in text
    [chosen] = [line for line in text.splitlines() if line.startswith("chosen")]
    assert f"{plan.latency_ms:.4f}" in chosen
    draw(tmp_path / "plan.png", plan)
    assert (tmp_path / "plan.png").stat().st_size > 1000


def test_a_plan_that_cannot_be_fitted_to_these_images_has_no_divergence(model):
    found = candidates(model, EXAMPLE)
    fits = {Choice(("1",), (3, 3)): 0.4}
    importance = lf.Importance({}, "points", fits=dict.fromkeys(fits, 1.0))
    few = torch.randn(2, 3, 8, 8)
    plan = lf.plan(model, EXAMPLE, table_of(found, {}, fits), importance=importance, images=few)
    assert plan.fits and all(point.divergence is None for point in plan.frontier)
    assert "carried out" not in as_text(plan)
    [note] = plan.notes
    assert "cannot be carried out by fits: 1: " in note and "too few" in note


def test_plans_are_spread_over_the_latencies():
    times = [1 + i / 100 for i in range(101)]
    chosen = spread(times, 3)
    assert 3 in chosen and 0 in chosen and 100 not in chosen and len(chosen) <= MEASURED
    gaps = [b - a for a, b in itertools.pairwise(chosen)]
    assert max(gaps) <= 20
    assert spread([1.0], 0) == []  # the original network alone
