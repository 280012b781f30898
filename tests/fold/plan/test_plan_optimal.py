import csv
import math
import time
from itertools import combinations, pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layer_folding.command_line import run
from layer_folding.fold import commands as command
from layer_folding.fold.plan.chain_splits import optimal_splits
from layer_folding.latency_rows import Row, read_chain
from layer_folding.latency_tables import write_table
from tests.fold.plan.latency_tables import table, timed

PEERS = Path(__file__).parents[4] / "shared" / "peers"
published = pytest.mark.skipif(not PEERS.is_dir(), reason="the published latency tables are not at ../shared/peers")


def call(*arguments: object) -> int:
    return run(lambda: command.main(["plan", *map(str, arguments)]))


@published
def test_published_table_gives_the_published_splits(tmp_path, capsys):
    optimal = tmp_path / "optimal.csv"
    assert call("--latency", PEERS / "mobilenetv2-1.0-time.csv", "--optimal", optimal) == 0
    assert "171 segments" in capsys.readouterr().out
    with open(optimal, newline="") as ours, open(PEERS / "mobilenetv2-1.0-opt-time.csv", newline="") as theirs:
        ours, theirs = csv.DictReader(ours), csv.DictReader(theirs)
        assert ours.fieldnames == theirs.fieldnames
        pairs = list(zip(ours, theirs, strict=True))
    assert len(pairs) == 171
    for our, their in pairs:
        assert [our[name] for name in ("id", "st", "end", "breaks")] == [
            their[name] for name in ("id", "st", "end", "breaks")
        ]
        assert math.isclose(float(our["time"]), float(their["time"]), rel_tol=0, abs_tol=1e-9)
        assert math.isclose(float(our["stdev"]), float(their["stdev"]), rel_tol=0, abs_tol=1e-9)


@pytest.mark.alone
@published
def test_published_table_takes_less_than_100_ms():
    start = time.process_time()
    optimal_splits(read_chain(PEERS / "mobilenetv2-1.0-time.csv"))
    assert time.process_time() - start < 0.1


@given(st.integers(1, 7), st.data())
def test_no_split_is_faster(layers, data):
    spans = [(i, j) for i in range(layers) for j in range(i + 1, layers + 1)]
    times = st.lists(st.integers(0, 20), min_size=len(spans), max_size=len(spans))
    rows = [Row(i, j, time, 1.0) for (i, j), time in zip(spans, data.draw(times), strict=True)]
    table = {(row.st, row.end): row.time for row in rows}
    for row, split in zip(rows, optimal_splits(rows), strict=True):
        inner = range(row.st + 1, row.end)
        every = [(row.st, *cuts, row.end) for count in range(len(inner) + 1) for cuts in combinations(inner, count)]
        totals = {breaks: sum(table[pair] for pair in pairwise(breaks)) for breaks in every}
        assert split.time == totals[split.breaks] == min(totals.values())
        assert split.stdev == len(split.breaks) - 1


def test_ties_stay_whole():
    assert optimal_splits([Row(0, 1, 1, 0), Row(1, 2, 1, 0), Row(0, 2, 2, 0)])[2].breaks == (0, 2)


GOOD = "id,st,end,time,stdev\n0,0,1,1.0,0.1\n1,0,2,1.5,0.1\n2,1,2,1.0,0.1\n"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (GOOD.replace("2,1,2,1.0,0.1\n", ""), "row (1,2) is missing"),
        (GOOD.replace("1,0,2,1.5,0.1\n", ""), "a row is missing before it"),
        (GOOD.replace("1.5", "-1.5"), "line 3: time is -1.5"),
        (GOOD.replace("1.5", "nan"), "line 3: time is nan"),
        (GOOD.replace("1.5", "inf"), "line 3: time is inf"),
        (GOOD.replace("1.5,0.1", "1.5,-0.1"), "line 3: stdev is -0.1"),
        (GOOD.replace("1.5", "fast"), "not four numbers"),
        (GOOD.replace("1,0,2,1.5,0.1", "1,0,2"), "not four numbers"),
        (GOOD.replace("1,0,2,", "1,2,2,"), "no segment"),
        (GOOD.replace("1,0,2,", "1,0,1,"), "row (0,1) is there twice"),
        (GOOD.replace("time", "ms"), "has no column time"),
        ("id,st,end,time,stdev\n", "has no rows"),
        ("", "has no column st, end, time, stdev"),
        ("\x00\x01\ufffd", "has no column"),
    ],
)
def test_bad_tables_are_refused_in_one_line(tmp_path, capsys, table, message):
    path = tmp_path / "latency.csv"
    path.write_text(table)
    assert call("--latency", path, "--optimal", tmp_path / "optimal.csv") == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {path}") and err.count("\n") == 1 and message in err
    assert not (tmp_path / "optimal.csv").exists()


def test_a_binary_file_is_refused(tmp_path, capsys):
    path = tmp_path / "latency.csv"
    path.write_bytes(b"\xff\xfe\x00")
    assert call("--latency", path, "--optimal", tmp_path / "optimal.csv") == 2
    assert "not a CSV file" in capsys.readouterr().err


@pytest.mark.parametrize(("option", "other"), [("device", "Orin"), ("batch", 8), ("precision", "fp16")])
def test_a_table_measured_otherwise_is_refused(tmp_path, capsys, option, other):
    path = tmp_path / "latency.csv"
    write_table(path, table(*(timed(name, 1.0) for name in ("0,1", "1,2", "0,2", "apart 0,2"))))
    arguments = ("--latency", path, "--optimal", tmp_path / "optimal.csv")
    assert call(*arguments, f"--{option}", other) == 2
    here = {"device": "EPYC", "batch": 1, "precision": "fp32"}
    err = capsys.readouterr().err
    assert f"measured with {option} {here[option]}, not {other}" in err and err.count("\n") == 1
    assert f"give --{option} '{here[option]}' to plan with this table all the same" in err
    assert call(*arguments, f"--{option}", here[option]) == 0 and call(*arguments) == 0
    sidecar = path.with_suffix(".json")
    sidecar.write_text("{")
    assert call(*arguments, f"--{option}", other) == 2
    sidecar.unlink()
    assert call(*arguments, f"--{option}", other) == 2
    damaged, missing = capsys.readouterr().err.splitlines()
    assert "latency.json: damaged: " in damaged and "latency.json: no such file; bring it along" in missing
    assert call(*arguments) == 0


def test_missing_files_and_options(tmp_path, capsys):
    assert call("--latency", tmp_path / "none.csv", "--optimal", tmp_path / "optimal.csv") == 2
    assert call("--latency", tmp_path / "none.csv") == 2
    assert len(capsys.readouterr().err.splitlines()) == 2


@pytest.mark.parametrize("option", [(), ("--batch", "1")])
def test_a_table_that_is_not_there(tmp_path, capsys, option):
    table = tmp_path / "latency.csv"
    assert call("--latency", table, "--optimal", tmp_path / "optimal.csv", *option) == 2
    assert capsys.readouterr().err == f"error: {table}: no such file; measure it, with `make table`\n"


def test_the_table_itself_and_files_of_other_kinds_are_not_overwritten(tmp_path, capsys):
    table, network = tmp_path / "latency.csv", tmp_path / "original.safetensors"
    table.write_text("st,end,time,stdev\n0,1,1.0,0.1\n")
    network.write_bytes(b"weights")
    for path, reason in ((table, "is what the command reads"), (network, "is no name for a table of splits")):
        before = path.read_bytes()
        assert call("--latency", table, "--optimal", path) == 2
        assert f"error: --optimal {path}: {reason}" in capsys.readouterr().err
        assert path.read_bytes() == before
