"""The command: what it prints, what it writes, what it refuses."""

import json
import re

import pytest

from benchmarks import __main__ as command
from benchmarks.measure import Row
from layer_folding.errors import InputError

ROW = Row("case", {"slow": [2.0, 2.0], "fast": [1.0, 1.0]})


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(command, "BENCHMARKS", {"one": lambda progress: [ROW], "two": lambda progress: [ROW]})


def test_all_benchmarks_are_printed_and_nothing_is_written(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command.main([])
    printed = capsys.readouterr()
    assert [line.split()[0] for line in printed.out.splitlines()] == [
        "benchmark",
        "---------",
        "one",
        "one",
        "two",
        "two",
    ]
    assert "2.00x [2.00, 2.00]" in printed.out
    assert printed.err == "" and not list(tmp_path.iterdir())


def test_those_that_are_named_run_and_are_written(capsys, tmp_path):
    command.main(["two", "-o", str(tmp_path / "b.json")])
    document = json.loads((tmp_path / "b.json").read_text())
    assert list(document["samples"]) == ["two"] and "one" not in capsys.readouterr().out
    assert document["command"] == "python -m benchmarks two -o b.json"
    assert [row[0] for row in document["table"]] == ["benchmark", "two", "two"]


def test_what_was_measured_outlives_an_interruption(tmp_path, monkeypatch):
    def interrupted(progress):
        raise KeyboardInterrupt

    monkeypatch.setitem(command.BENCHMARKS, "two", interrupted)
    with pytest.raises(KeyboardInterrupt):
        command.main(["-o", str(tmp_path / "b.json")])
    assert list(json.loads((tmp_path / "b.json").read_text())["samples"]) == ["one"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["three"], "benchmark 'three' is unknown; give one of one, two"),
        (["-o", "table.txt"], "-o table.txt: give a file that ends in .json, in a folder that is there"),
        (["-o", "none/b.json"], "-o none/b.json: give a file that ends in .json, in a folder that is there"),
        (["--fast"], "see python -m benchmarks --help"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(arguments, said, monkeypatch):
    monkeypatch.setitem(command.BENCHMARKS, "one", lambda progress: pytest.fail("ran"))
    with pytest.raises(InputError, match=re.escape(said)):
        command.main(arguments)


def test_help_has_every_benchmark_and_an_example(capsys, monkeypatch):
    monkeypatch.undo()
    with pytest.raises(SystemExit):
        command.main(["--help"])
    text = capsys.readouterr().out
    assert all(re.search(rf"^  {name} ", text, re.MULTILINE) for name in command.BENCHMARKS)
    assert "python -m benchmarks fold kernels-resnet -o" in text
