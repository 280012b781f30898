import time
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layer_folding.fold.plan import dynamic_program as module
from layer_folding.fold.plan.dynamic_program import Gain, frontier

TIME = 100.0


def packings(candidates):
    """Every set of candidates that do not overlap, by brute force."""
    for count in range(len(candidates) + 1):
        for chosen in combinations(range(len(candidates)), count):
            places = [place for i in chosen for place in candidates[i].occupies]
            if len(set(places)) == len(places):
                yield chosen


def best(candidates, budget):
    """(importance lost, time) of the plan that loses least under ``budget``, and is the fastest of those; or None."""
    plans = [
        (sum(candidates[i].loses for i in chosen), TIME - sum(candidates[i].saves for i in chosen))
        for chosen in packings(candidates)
    ]
    return min((plan for plan in plans if plan[1] <= budget), default=None)


def chains(layers):
    return st.tuples(st.integers(0, layers - 1), st.integers(2, 4)).map(
        lambda span: frozenset(range(span[0], min(span[0] + span[1], layers)))
    )


def graphs(layers):
    """Intervals, and sets with holes: what merges across a skip while other layers of the block stay apart."""
    return st.one_of(chains(layers), st.frozensets(st.integers(0, layers - 1), min_size=1, max_size=4))


def gains(places):
    return st.lists(
        st.builds(Gain, places, st.integers(-2, 9).map(float), st.integers(0, 9).map(float)), min_size=1, max_size=9
    )


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 12).flatmap(lambda n: gains(st.one_of(chains(n), graphs(n)))), st.integers(60, 101))
def test_equals_brute_force(candidates, budget):
    front = frontier(TIME, candidates)
    number, expected = front.under(budget), best(candidates, budget)
    assert (number is None) == (expected is None)
    if number is not None:
        assert (front.loses[number], front.times[number]) == expected
        chosen = front.chosen(number)
        assert tuple(sorted(chosen)) in set(packings(candidates))
        assert TIME - sum(candidates[i].saves for i in chosen) == front.times[number] <= budget
        assert sum(candidates[i].loses for i in chosen) == front.loses[number]


@settings(max_examples=50, deadline=None)
@given(gains(graphs(8)))
def test_the_fastest_comes_first_and_nothing_is_beaten(candidates):
    front = frontier(TIME, candidates)
    assert front.times[0] == min(TIME - sum(candidates[i].saves for i in chosen) for chosen in packings(candidates))
    assert (np.diff(front.times) > 0).all() and (np.diff(front.loses) < 0).all()
    assert (front.times[-1], front.loses[-1]) == best([c for c in candidates if not c.loses], TIME)[::-1]


def test_inside_and_across_a_skip():
    inside, across = Gain(frozenset({1, 2}), 3, 1), Gain(frozenset({0, 1, 2, 3}), 5, 4)
    other = Gain(frozenset({0, 3}), 1, 0.5)
    front = frontier(10, [inside, across, other])
    assert [sorted(front.chosen(i)) for i in range(len(front.times))] == [[1], [0, 2], [0], [2], []]
    assert front.under(4.9) is None


def test_ties_go_to_the_faster():
    slow, fast = Gain(frozenset({0}), 1, 0.1 + 0.2), Gain(frozenset({0}), 2, 0.3)
    front = frontier(10, [slow, fast])
    assert front.chosen(front.under(9)) == [1]


def test_without_importance_only_the_fastest_is_left():
    front = frontier(10, [Gain(frozenset({0, 1}), 2), Gain(frozenset({1, 2}), 3), Gain(frozenset({2}), 0)])
    assert len(front.times) == 1 and front.chosen(0) == [1]


def test_nothing_to_choose():
    front = frontier(10, [])
    assert front.under(10) == 0 and front.chosen(0) == [] and front.under(9.99) is None


def large(seed):
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, 50, 200)
    return [
        Gain(frozenset(range(st, min(st + width, 50))), saves, loses)
        for st, width, saves, loses in zip(
            starts, rng.integers(2, 7, 200), rng.uniform(0, 2, 200), rng.uniform(0, 1, 200), strict=True
        )
    ]


@pytest.mark.alone
def test_fifty_layers_two_hundred_rows_and_a_thousand_budgets_take_less_than_a_second():
    start = time.process_time()
    candidates = large(0)
    front = frontier(TIME, candidates)
    for budget in np.linspace(front.times[0], TIME, 1000):
        number = front.under(budget)
        assert TIME - sum(candidates[i].saves for i in front.chosen(number)) <= budget + 1e-9
    assert time.process_time() - start < 1


def test_discretised_time_is_close_to_exact_and_never_over_budget(monkeypatch):
    candidates = large(1)
    exact = frontier(TIME, candidates)
    monkeypatch.setattr(module, "_POINTS", 50)
    coarse = frontier(TIME, candidates)
    assert len(coarse.times) <= 51 < len(exact.times)
    assert coarse.times[0] == pytest.approx(exact.times[0], rel=1e-12)
    for budget in np.linspace(exact.times[0] + 1e-9, TIME, 100):
        number = coarse.under(budget)
        assert coarse.times[number] <= budget
        slack = 0.1 * (TIME - exact.times[0])
        assert coarse.loses[number] <= exact.loses[exact.under(max(budget - slack, exact.times[0]))] + 1e-9
