"""`lf.plan` and `lf.table`, as a program of the user's own calls them."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch
from torch import nn

import layer_folding as lf
from layer_folding.fit_choices import Choice
from layer_folding.fold.plan.candidates import candidates
from layer_folding.trt_bench import inference_times, timer
from tests.fold.plan.latency_tables import table_of, with_activation

EXAMPLE = torch.zeros(1, 1, 16, 16)
FIRST = ("blocks.1.expand.act", "blocks.1.depthwise.act")
SECOND = ("blocks.3.expand.act", "blocks.3.depthwise.act")


@pytest.fixture(scope="module")
def model() -> nn.Module:
    from layer_folding.fold.models import build

    return build("mobilenetv2-digits", 10, 1).eval()


@pytest.fixture(scope="module")
def found(model):
    return candidates(model, EXAMPLE)


@pytest.fixture(scope="module")
def table(found) -> lf.Table:
    return table_of(found, {FIRST: 1.5, SECOND: 1.75})


def losses(found) -> dict[tuple[str, ...], float]:
    return {candidate.merge.activations: 5.0 for candidate in found.found}


@pytest.mark.slow
def test_a_plan_says_what_goes_and_what_that_gives(model, table):
    plan = lf.plan(model, EXAMPLE, table)
    assert {*FIRST, *SECOND} <= set(plan.removed)
    assert plan.latency_ms == pytest.approx(10 - sum(merge.saves_ms for merge in plan.merges))
    assert plan.speedup == pytest.approx(10 / plan.latency_ms) and plan.conditions == table.conditions
    assert (plan.importance, plan.importance_lost, plan.notes) == ("activations", len(plan.removed), ())
    assert plan.frontier[0].latency_ms == pytest.approx(plan.latency_ms)
    assert (plan.frontier[-1].latency_ms, plan.frontier[-1].importance_lost) == (10, 0)


def test_the_frontier_goes_from_the_fastest_to_the_original(model, table):
    times, lost = zip(
        *((p.latency_ms, p.importance_lost) for p in lf.plan(model, EXAMPLE, table).frontier), strict=True
    )
    assert list(times) == sorted(set(times)) and list(lost) == sorted(set(lost), reverse=True)


@pytest.mark.slow
def test_limits(model, found, table):
    importance = lf.Importance({**losses(found), FIRST: 9.0, SECOND: 1.0}, "points")
    plan = lf.plan(model, EXAMPLE, table, budget_ms=9.75, importance=importance)
    assert (plan.removed, plan.importance_lost, plan.budget_ms) == (SECOND, 1.0, 9.75)
    by_speedup = lf.plan(model, EXAMPLE, table, speedup=10 / 9.75, importance=importance)
    assert by_speedup.removed == SECOND and by_speedup.budget_ms == pytest.approx(9.75)
    with pytest.raises(lf.CheckError, match="give a budget of"):
        lf.plan(model, EXAMPLE, table, budget_ms=1.0)


@pytest.mark.parametrize(
    "limits", [{"speedup": 1.3, "budget_ms": 9}, {"speedup": 0}, {"speedup": float("nan")}, {"budget_ms": -1}]
)
def test_limits_that_make_no_sense_are_refused(model, table, limits):
    with pytest.raises(lf.InputError, match=r"speedup|budget_ms"):
        lf.plan(model, EXAMPLE, table, **limits)


@pytest.mark.slow
def test_at_most_one_alternative_of_a_candidate_is_taken(model, found):
    """The alternative saves less and loses less."""
    other = with_activation(found, *FIRST)
    both = table_of(found, {FIRST: 1.5, other.changes: 1.6})
    importance = lf.Importance({**losses(found), FIRST: 4.0, other.changes: 1.0}, "points")
    for budget, changes in ((9.6, other.changes), (9.5, FIRST)):
        plan = lf.plan(model, EXAMPLE, both, budget_ms=budget, importance=importance)
        assert plan.removed == changes
    taken = [merge.layers for merge in lf.plan(model, EXAMPLE, both, importance=importance).merges]
    assert len(taken) == len(set(taken))


def test_the_layers_of_a_fit_and_what_it_saves_are_in_the_plan(model, found):
    candidate = next(c for c in found.found if c.merge.activations == FIRST)
    fit = next(a for a in candidate.alternatives if a.shape == "none")
    importance = lf.Importance({}, "nats", fits={Choice(FIRST, "none"): 0.25})
    plan = lf.plan(model, EXAMPLE, table_of(found, {}, {fit.choice: 1.0}), importance=importance)
    (merge,) = plan.merges
    assert (merge.layers, merge.shape, merge.kernel) == (candidate.merge.layers, "none", ())
    assert merge.macs == (candidate.merge.macs[0], 0)  # an identity is all that stays
    assert (plan.removed, plan.fits, plan.notes) == ((), (fit.choice,), ())
    assert plan.latency_ms == pytest.approx(9) and plan.importance_lost == 0.25


def test_without_importance_no_kernel_is_smaller_than_those_that_it_replaces():
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)).eval()
    example = torch.zeros(1, 4, 16, 16)
    found = candidates(model, example)
    for times, chosen in (({(1, 1): 0.5, (3, 3): 1.5}, "3x3"), ({(1, 1): 0.5}, None)):
        fitted = {Choice(("1",), shape): time for shape, time in times.items()}
        plan = lf.plan(model, example, table_of(found, {}, fitted))
        assert [merge.shape for merge in plan.merges] == ([chosen] if chosen else [])
    with_losses = lf.Importance({}, "nats", fits={Choice(("1",), 1): 0.5})
    plan = lf.plan(model, example, table_of(found, {}, fitted), importance=with_losses)
    assert plan.lines == ("1=1x1",) and plan.importance_lost == 0.5


@pytest.mark.parametrize("seed", range(8))
def test_no_other_choice_of_alternatives_is_better(seed):
    """Brute force over all that can be chosen together: a chain whose times and losses are drawn."""
    random = Random(seed)
    layers = [m for _ in range(4) for m in (nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())]
    model, example = nn.Sequential(nn.MaxPool2d(2), *layers).eval(), torch.zeros(1, 4, 16, 16)
    found = candidates(model, example)
    alternatives = [(candidate, each) for candidate in found.found for each in candidate.alternatives]
    times = {each.segment: random.uniform(0.5, 2.5) for _, each in alternatives}
    exact = {each.changes: times[each.segment] for _, each in alternatives if each.choice is None}
    fitted = {each.choice: times[each.segment] for _, each in alternatives if each.choice}
    table = table_of(found, exact, fitted)
    known = [(c, each, random.random()) for c, each in alternatives if random.random() < 0.8]
    importance = lf.Importance(
        {each.changes: loses for _, each, loses in known if each.choice is None},
        "points",
        fits={each.choice: loses for _, each, loses in known if each.choice},
    )
    paying = [(c.occupies, 2 - times[each.segment], loses) for c, each, loses in known if times[each.segment] < 1.98]
    if not paying:
        return
    every = [(10.0, 0.0, frozenset[int]())]
    for occupies, saves, loses in paying:
        every += [(ms - saves, lost + loses, taken | occupies) for ms, lost, taken in every if not taken & occupies]
    fastest = min(ms for ms, _, _ in every)
    for budget in (fastest + 1e-9, random.uniform(fastest, 10), 10):
        plan = lf.plan(model, example, table, budget_ms=budget, importance=importance)
        assert plan.latency_ms <= budget
        assert plan.importance_lost == pytest.approx(min(lost for ms, lost, _ in every if ms <= budget))
        assert all(merge.saves_ms > merge.error_ms for merge in plan.merges)


def test_a_table_by_which_folding_saves_more_than_there_is_is_refused(model, found):
    wrong = table_of(found, {})
    short = {segment.names[0]: 2.5 for segment in wrong.segments if segment.names[0].startswith("apart")}
    short[found.whole] = 0.1
    segments = [replace(segment, time=short.get(segment.names[0], 1.0), ci95=(1.0, 1.0)) for segment in wrong.segments]
    with pytest.raises(lf.InputError, match="measure again, on a quiet machine"):
        lf.plan(model, EXAMPLE, replace(wrong, segments=tuple(segments)))


def test_the_network_is_not_modified(model, table):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    lf.plan(model, EXAMPLE, table)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.slow
def test_from_a_network_to_its_plan(tmp_path, monkeypatch):
    """The table is measured here, by a clock for which all segments take 1 ms, and read again."""

    def measure(repeats, *_, **__):
        (repeat,) = repeats
        return timer.Timing([np.ones(len(repeat(50))).tolist()], [], [], {})

    monkeypatch.setattr(timer, "measure", measure)
    monkeypatch.setattr(inference_times, "latency", lambda trace: np.ones(len(trace)))
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    said: list[str] = []
    given = {"folder": tmp_path, "batch": 2, "runtime": "onnxruntime", "progress": said.append}
    table = lf.table(model, EXAMPLE, **given)
    assert table.complete and table.settings.batch == 2 and said
    assert {(0, 2), (1, 3), (0, 3)} <= {(row.st, row.end) for row in table.rows}
    assert lf.read_table(tmp_path / "latency.csv") == table
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latency.csv", "latency.json", "segments"]
    plan = lf.plan(model, EXAMPLE, table)
    assert (plan.original_ms, plan.conditions.batch, plan.merges) == (1.0, 2, ())  # no merge is faster
    said.clear()
    again = lf.table(model, EXAMPLE, **given)
    assert again.segments == table.segments and not said  # nothing is left to time


@pytest.mark.slow
def test_a_table_without_a_folder_leaves_no_files(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 1)).eval()
    table = lf.table(model, EXAMPLE, runtime="onnxruntime", seconds=0.01, bound=10.0)
    assert table.complete and list(tmp_path.iterdir()) == []
