"""Runs by the way that made them shallower."""

from pathlib import Path

import pytest

from benchmarks import frontier, published
from benchmarks.notes import Note, NotedLatency
from layer_folding.errors import InputError
from layer_folding.fold_results import Costs, NetworkCost
from layer_folding.stats import Comparison
from layer_folding.trt_bench import device

ROOT = Path(__file__).resolve().parents[2]
COST = NetworkCost(20, 270_000, 40_600_000)


def note(*commands: str, folded: float = 0.87, speedup: float | None = None, version: str = "0.2.0") -> Note:
    measured = None
    if speedup is not None:
        comparison = Comparison(speedup, (speedup - 0.01, speedup + 0.01), "faster", "original", "folded", 1)
        measured = NotedLatency("onnxruntime", device.host(), comparison)
    accuracy = {"original": 0.88, "folded": folded}
    return Note("resnet20", commands, {"layer-folding": version}, {}, accuracy, Costs(COST, COST), (), measured)


@pytest.mark.parametrize(
    ("command", "version", "way"),
    [
        ("python -m train fit RUN --choose a=3", "0.2.0", "fits"),
        ("python -m train prefold --run RUN --remove a,b", "0.2.0", "exact merges, planned"),
        ("python -m train prefold --run RUN --lambda 1", "0.2.0", "gates with affine maps"),
        ("python -m train prefold --run RUN --linear identity", "0.2.0", "gates with the identity"),
        ("python -m train prefold --run RUN --lambda 1", "0.1.0", "gates with the identity"),
    ],
)
def test_the_commands_tell_the_way(command, version, way):
    assert frontier.way(note(command, version=version)) == way


def test_runs_that_differ_by_their_seed_are_one_row():
    seeds = ("python -m train fit RUN --choose a=3 --seed 1", "python -m train fit RUN --choose a=3")
    runs = {
        "one": note(seeds[0], folded=0.86, speedup=1.3),
        "two": note(seeds[1], folded=0.87, speedup=1.5),
        "other": note("python -m train fit RUN --choose b=3", folded=0.80),
    }
    header, *rows = frontier.rows(runs)
    assert rows == [
        ["resnet20, 88.00 %", "fits", "not measured", "-8.00", "1", "[other](#other)"],
        ["resnet20, 88.00 %", "fits", "1.40x", "-1.50 [-2.00, -1.00]", "2", "[one](#one), [two](#two)"],
    ]
    assert all(len(row) == len(header) for row in rows)


def test_a_goal_has_the_way_that_loses_least_of_those_that_reach_it():
    runs = {
        "slow": note("python -m train prefold --run RUN --remove a", folded=0.88, speedup=1.05),
        "fast": note("python -m train fit RUN --choose a=3", folded=0.85, speedup=1.45),
        "lossy": note("python -m train fit RUN --choose b=3", folded=0.70, speedup=1.5),
    }
    assert [row[1:] for row in frontier.goals(runs)[1:]] == [
        ["1.0x", "exact merges, planned", "1.05x", "+0.00"],
        ["1.2x", "fits", "1.45x", "-3.00"],
        ["1.4x", "fits", "1.45x", "-3.00"],
    ]


def test_what_others_publish_is_read(tmp_path):
    found = published.read(ROOT / "docs/results/published.json")
    header, *rows = published.rows(found)
    assert len(rows) == sum(len(one.rows) for one in found.publications) > 10
    assert all(len(row) == len(header) for row in rows)
    assert published.read(tmp_path / "none.json") == published.Published(())
    (tmp_path / "damaged.json").write_text("{")
    with pytest.raises(InputError, match=r"damaged\.json"):
        published.read(tmp_path / "damaged.json")
