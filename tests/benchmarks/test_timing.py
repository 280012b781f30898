"""The command that shows whether latencies can be trusted. No test relies on its verdict, as machines may be busy."""

import json
import math

import pytest

from benchmarks import timing
from layer_folding import command_line


@pytest.mark.slow
def test_all_four_questions_are_answered():
    answers = list(timing.ask(1, 0.1))
    assert len(answers) == 4
    for answer in answers:
        assert len(answer.held) == len(answer.details) == 1
        assert 0 < answer.details[0] < math.inf


def test_one_failure_in_twenty_passes_and_two_do_not():
    def answer(failures):
        return timing.Answer("q", [False] * failures + [True] * (20 - failures), [1.0] * 20)

    assert [answer(failures).passes() for failures in (0, 1, 2)] == [True, True, False]
    assert answer(1).row() == ["19 of 20", "q", "1.000 [1.000, 1.000]"]


def test_the_command_fails_where_an_answer_does_and_writes_it_down(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(timing, "ask", lambda *_: iter([timing.Answer("why", [True, False], [1.0, 2.0])]))
    path = tmp_path / "timing.json"
    monkeypatch.setattr("sys.argv", ["timing", "--trials", "2", "-o", str(path)])
    assert command_line.run(timing.main) == 1
    out, err = capsys.readouterr()
    assert out.startswith("1 of 2  why  1.500 [1.000, 2.000]\nload average ")
    assert err == "error: not in 19 of 20: why; see whether the machine is quiet enough\n"
    written = json.loads(path.read_text())
    assert written["command"] == "python -m benchmarks.timing --trials 2 -o timing.json"
    assert written["table"] == [timing.HEADER, ["1 of 2", "why", "1.500 [1.000, 2.000]"]]
    assert written["samples"] == {"why": [1.0, 2.0]}
