"""The frontier of ResNet-20, from notes."""

import pytest

from benchmarks import frontier, goals
from benchmarks.notes import Note
from layer_folding.fold_results import Costs, NetworkCost


def note(*commands: str, folded: float = 0.87, version: str = "0.2.0", model: str = "resnet20") -> Note:
    cost = NetworkCost(20, 270_000, 40_000_000)
    words = tuple(f"python -m train {command}" for command in commands)
    accuracy = {"original": 0.88, "folded": folded}
    return Note(model, words, {"layer-folding": version}, {}, accuracy, Costs(cost, cost), (), None)


@pytest.mark.parametrize(
    ("command", "version", "way"),
    [
        ("fit RUN --choose layer1.0.relu=3x3", "0.2.0", "fits"),
        ("prefold --run RUN --remove layer1.0.relu,layer1.1.relu", "0.2.0", "exact merges, planned"),
        ("prefold --run RUN --linear identity", "0.2.0", "gates with identity"),
        ("prefold --run RUN", "0.1.0", "gates with identity"),
        ("prefold --run RUN", "0.2.0.dev0", "gates with affine maps"),
    ],
)
def test_the_way_of_a_run_is_decided_from_its_commands(command, version, way):
    assert frontier.way(note("pretrain --run RUN --model resnet20", command, version=version)) == way


def test_runs_that_differ_by_the_seed_alone_are_one_row_without_any_latency():
    runs = {
        f"net-seed{seed}": note(f"prefold --run RUN --seed {seed}", f"finetune --run RUN --seed {seed}", folded=folded)
        for seed, folded in ((1, 0.86), (2, 0.87), (3, 0.88))
    }
    runs["net-seed0"] = note("prefold --run RUN", "finetune --run RUN", folded=0.87)
    runs["longer"] = note("prefold --run RUN --epochs 9", "finetune --run RUN")
    runs["another"] = note("prefold --run RUN", model="resnet56")
    found = frontier.rows(runs)
    assert [row.name for row in found] == ["net", "longer"]
    _, cells, _ = frontier.table(found)
    assert cells[2] == "4"
    assert cells[6:] == ["87.00 +- 0.82", "-1.00", "not measured"]
    assert goals.table(found, [])[1:] == []


def test_the_fastest_way_within_a_loss():
    def row(way: str, change: float, speedup: float) -> frontier.Row:
        return frontier.Row(way, way, "20", "40 M", (0.88,), (0.88 + change / 100,), (speedup,), None)

    slower = row("exact merges, planned", 0.1, 0.9)
    header, *found = goals.table([slower, row("fits", -1, 1.7)], [])
    assert header[0] == "goal"
    assert found[0][:3] == ["resnet20 on a CPU, no loss", "none: leave the network as it is", "0.90x"]
    assert found[2][1:4] == ["fits", "1.70x", "-1.00"]


def test_a_picture_of_what_was_timed(tmp_path):
    rows = [frontier.Row("fits", "a", "20", "40 M", (0.88, 0.88), (0.87, 0.86), (1.2, 1.3), None)]
    frontier.draw(tmp_path / "frontier.svg", rows)
    assert "<svg" in (tmp_path / "frontier.svg").read_text()
