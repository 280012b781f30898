"""The parts of the GPU check: each reports by itself."""

import json

import pytest
import torch

from benchmarks import gpu_check
from benchmarks.gpu_check import Part
from layer_folding import command_line

PARTS = (
    Part("good", ("-c", "print('fine')")),
    Part("bad", ("-c", "print('why it failed'); raise SystemExit(3)")),
    Part("slow", ("-c", "import time; print('begun', flush=True); time.sleep(60)")),
    Part("absent", ("-c", "pass"), obstacle="it is not installed"),
    Part("last", ("-c", "print('still run')")),
)


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")


@pytest.mark.slow
def test_a_part_that_fails_does_not_keep_the_others_from_running(gpu, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gpu_check, "parts", lambda *folders: iter(PARTS))
    output = tmp_path / "check.json"
    arguments = ["--limit", "5", "-o", str(output)]
    monkeypatch.setattr("sys.argv", ["gpu_check", *arguments])
    assert command_line.run(gpu_check.main) == 1
    out, err = capsys.readouterr()
    assert "why it failed" in out and err.endswith("error: failed: bad, slow; what they printed is above\n")
    outcomes = json.loads(output.read_text())["parts"]
    assert [one["result"] for one in outcomes] == [
        "passed",
        "failed (exit code 3)",
        "failed (more than 5 s)",
        "skipped: it is not installed",
        "passed",
    ]
    assert [one["lines"] for one in outcomes] == [["fine"], ["why it failed"], ["begun"], [], ["still run"]]


def test_where_all_pass_it_is_a_success(gpu, monkeypatch, capsys):
    monkeypatch.setattr(gpu_check, "parts", lambda *folders: iter(PARTS[:1]))
    gpu_check.main([])
    assert "good" in capsys.readouterr().out


def test_the_output_is_checked_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "parts", lambda *folders: pytest.fail("it ran"))
    monkeypatch.setattr("sys.argv", ["gpu_check", "-o", str(tmp_path)])
    assert command_line.run(gpu_check.main) == 2


def test_without_a_gpu_it_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(gpu_check, "parts", lambda *folders: pytest.fail("it ran"))
    monkeypatch.setattr("sys.argv", ["gpu_check"])
    assert command_line.run(gpu_check.main) == 2
    assert capsys.readouterr().err.startswith("error: no GPU: ")
