import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.report.conftest import write

ROOT = Path(__file__).parents[2]


def report(*arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "report", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)


def test_one_run_gets_one_page(folder):
    run = report(folder)
    assert (run.returncode, run.stdout, run.stderr) == (0, f"{folder / 'report.html'}\n", "")
    before = {path.name for path in folder.iterdir()}
    assert report(folder).returncode == 0
    assert {path.name for path in folder.iterdir()} == before  # nothing temporary stays


@pytest.mark.slow
def test_several_get_one_each_and_an_index(tmp_path):
    runs = [write(tmp_path / name) for name in ("a", "b")]
    run = report(*runs, cwd=tmp_path)
    assert run.stdout.splitlines() == [*(str(folder / "report.html") for folder in runs), "frontier.html"]
    assert "a, folded" in (tmp_path / "frontier.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("output", ["original.onnx", ".", "page.html/"])
def test_an_output_that_is_no_page_is_refused(folder, output):
    (folder / "page.html").mkdir()
    run = report(folder, "-o", folder / output)
    assert run.returncode == 2 and run.stderr.startswith("error: -o ") and run.stderr.count("\n") == 1
    assert (folder / "original.onnx").stat().st_size


@pytest.mark.parametrize("name", ["index.html", "frontier.html"])
def test_a_page_of_the_user_is_not_overwritten(tmp_path, name):
    runs = [write(tmp_path / run) for run in ("a", "b")]
    (tmp_path / name).write_text("<!DOCTYPE html>\n<title>My runs</title>\n")
    run = report(*runs, *([] if name == "frontier.html" else ["-o", name]), cwd=tmp_path)
    assert (run.returncode, run.stdout) == (2, "") and (tmp_path / name).read_text().endswith("My runs</title>\n")
    assert run.stderr.startswith(f"error: -o {name}: is there and is no page of layer-folding; give another name")


def test_a_damaged_run_is_one_line_and_writes_nothing(tmp_path):
    runs = [write(tmp_path / name) for name in ("a", "b")]
    (runs[1] / "fold.json").write_text("{")
    run = report(*runs, cwd=tmp_path)
    assert run.returncode == 2 and run.stderr.count("\n") == 1
    assert run.stderr.startswith(f"error: {runs[1] / 'fold.json'}: damaged")
    assert not (runs[0] / "report.html").exists()


@pytest.mark.slow
def test_help_shows_an_example():
    assert "layer-folding report runs/demo" in report("--help").stdout
    assert report().returncode == 2
