"""Interleaving, sums of rows, and what is said about them."""

import itertools
import json

import pytest

from benchmarks import document, report
from benchmarks.measure import Row, interleave, total


@pytest.mark.slow
def test_rounds_go_there_and_back_after_one_untimed_call_each():
    calls = []
    ticks = itertools.count(step=1_000_000)
    said = []
    contenders = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    row = interleave("case", contenders, rounds=2, progress=said.append, clock=lambda: next(ticks))
    assert "".join(calls) == "ab" + "abba" * 2
    assert row == Row("case", {"a": [1.0] * 4, "b": [1.0] * 4})
    assert row.rounds == 2
    assert said[0] == "case: a: warm-up" and said[-2:] == ["case: a: round 2 of 2", ""]


def test_total_counts_each_part():
    parts = [(2, Row("x", {"a": [1.0, 2.0], "b": [0.5, 0.5]})), (1, Row("y", {"a": [10.0, 20.0], "b": [1.0, 2.0]}))]
    assert total("all", parts) == Row("all", {"a": [12.0, 24.0], "b": [2.0, 3.0]})


@pytest.mark.parametrize("other", [{"a": [1.0] * 4}, {"b": [1.0] * 2}])
def test_parts_that_do_not_fit_are_refused(other):
    with pytest.raises(ValueError, match="all: parts differ"):
        total("all", [(1, Row("x", {"a": [1.0] * 2})), (1, Row("y", other))])


def test_table_has_a_line_a_contender_and_speedups_over_the_first():
    rows = [Row("case", {"slow": [1234.0] * 4, "fast": [12.34] * 4}), Row("alone", {"one": [0.01234] * 2})]
    assert [" ".join(row) for row in report.rows({"demo": rows})] == [
        "benchmark case contender rounds median ms [95 % interval] speed-up [95 % interval]",
        "demo case slow 2 1234 [1234, 1234] -",
        "demo case fast 2 12.3 [12.3, 12.3] 100x [100, 100]",
        "demo alone one 1 0.0123 [0.0123, 0.0123] -",
    ]


@pytest.mark.parametrize("option", ["-o {}", "--output={}", "-o{}"])
def test_a_document_has_the_samples_the_machine_and_the_versions_but_no_path(option, tmp_path):
    rows = [Row("case", {"slow": [2.0, 2.5], "fast": [1.0, 1.5]})]
    path = tmp_path / "demo.json"
    document.write(
        path,
        "benchmarks",
        ["fold", *option.format(path).split()],
        [["a"], ["b"]],
        samples=report.samples({"demo": rows}),
    )
    assert str(tmp_path) not in path.read_text()
    found = json.loads(path.read_text())
    assert found["samples"] == {"demo": [{"name": "case", "rounds": 1, "samples_ms": rows[0].samples_ms}]}
    assert {"cpu", "cores", "python"} <= set(found["device"]) and {"torch", "onnxruntime"} <= set(found["versions"])
