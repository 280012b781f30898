import json
from dataclasses import replace

import pytest

from layer_folding import Plan, read_plan
from layer_folding.errors import InputError
from layer_folding.fit_choices import Choice
from layer_folding.latency_tables import Conditions
from layer_folding.plans import PlannedMerge, PlanPoint, write_plan

MERGE = PlannedMerge(
    layers=("a.conv1", "a.conv2"),
    activations=("a.relu", "+a.conv2=a.relu"),
    kernel=(5, 5),
    macs=(18, 25),
    apart="apart 0,2",
    merged="active 0,2",
    apart_ms=1.0,
    merged_ms=0.6,
    error_ms=0.03,
    importance_lost=0.1,
)
PLAN = Plan(
    conditions=Conditions("tensorrt", "Orin", 8, "fp16"),
    original_ms=2.0,
    original_error_ms=0.04,
    activations=9,
    merges=(
        MERGE,
        replace(MERGE, activations=("b.relu",), kernel=(), importance_lost=0.2),
        replace(MERGE, activations=("c.relu", "c.relu_1"), shape="3x1", importance_lost=0.0, merged_ms=1.0),
    ),
    importance="cross entropy",
    budget_ms=1.5,
    frontier=(PlanPoint(1.2, 0.3), PlanPoint(2.0, 0.0)),
    notes=("something is left out",),
    network="runs/demo",
)


def test_a_plan_follows_from_its_merges():
    assert PLAN.latency_ms == pytest.approx(1.2) and PLAN.speedup == pytest.approx(2 / 1.2)
    assert PLAN.error_ms == pytest.approx((0.04**2 + 3 * 0.03**2) ** 0.5)
    assert PLAN.importance_lost == pytest.approx(0.3)
    assert PLAN.removed == ("a.relu", "+a.conv2=a.relu", "b.relu")
    assert PLAN.fits == (Choice(("c.relu", "c.relu_1"), (3, 1)),)
    assert PLAN.lines == ("a.relu=merged", "b.relu=merged", "c.relu,c.relu_1=3x1", "+a.conv2=a.relu")
    exact = replace(PLAN, merges=PLAN.merges[:2])
    assert exact.lines == exact.removed


@pytest.mark.parametrize("plan", [PLAN, replace(PLAN, merges=(), budget_ms=None, activations=0)])
def test_what_was_written_is_read(tmp_path, plan):
    write_plan(tmp_path / "plan.json", plan)
    assert read_plan(tmp_path / "plan.json") == plan
    document = json.loads((tmp_path / "plan.json").read_text())
    assert document["removed"] == list(plan.removed) and document["speedup"] == plan.speedup


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(schema=1), "is of schema 1, and this version reads schema 3"),
        (lambda d: d["conditions"].pop("runtime"), "conditions.runtime is missing"),
        (lambda d: d.update(original_ms=0.8), "the planned network takes 0.0 ms"),
        (lambda d: d.update(original_ms=float("inf")), "Infinity is no JSON"),
        (lambda d: d["merges"][1].update(merged_ms=-1), r"merges\[1\].merged_ms is -1, not a number, 0 or more"),
        (lambda d: d["merges"][2].update(shape="large"), r"merges\[2\]: 'large' is no shape"),
        (lambda d: d["merges"][0].update(layers="conv"), r"merges\[0\].layers is 'conv', not a list"),
        (lambda d: d["frontier"][0].pop("latency_ms"), r"frontier\[0\].latency_ms is missing"),
    ],
)
def test_damaged_plans_are_one_line(tmp_path, change, message):
    path = tmp_path / "plan.json"
    write_plan(path, PLAN)
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=message) as caught:
        read_plan(path)
    assert str(caught.value).startswith(f"{path}: ") and "plan again" in str(caught.value)
