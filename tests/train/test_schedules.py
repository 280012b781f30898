import pytest

from layer_folding.train.schedules import SCHEDULES, constant, cosine, one_cycle, opening, step

PROGRESS = [i / 1000 for i in range(1000)]


def test_constant():
    assert {constant(p) for p in PROGRESS} == {1.0}


def test_step():
    assert [step(p) for p in (0, 0.49, 0.5, 0.74, 0.75, 0.99)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_cosine():
    values = [cosine(p) for p in PROGRESS]
    assert values == sorted(values, reverse=True) and values[0] == 1 and values[-1] < 1e-4
    assert cosine(0.5) == pytest.approx(0.5)


def test_one_cycle():
    values = [one_cycle(p) for p in PROGRESS]
    assert 0 < values[0] < 0.01 and max(values) == pytest.approx(1, abs=1e-3) and values[-1] < 1e-4
    peak = values.index(max(values))
    assert values[:peak] == sorted(values[:peak]) and values[peak:] == sorted(values[peak:], reverse=True)


def test_gates_of_a_plan_open_from_0_to_1():
    values = [opening(p) for p in [*PROGRESS, 1.0]]
    assert values == sorted(values) and (values[0], values[500], values[-1]) == pytest.approx((0, 0.5, 1))


def test_every_schedule_has_its_name():
    assert list(SCHEDULES) == ["constant", "step", "cosine", "one-cycle"]
