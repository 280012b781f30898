import contextlib
import csv
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from layer_folding.command_line import run
from layer_folding.fold import checkpoints
from layer_folding.train import commands as command
from layer_folding.train import loop

ROOT = Path(__file__).parents[2]
LAMBDAS = ("0", "1", "3", "10")
OPTIONS = (
    "--prefold=--batch 16 --gate-lr 100 --epochs 2",
    "--finetune=--batch 16 --epochs 2 --threshold 0.1",
)


def call(*arguments: object) -> int:
    return run(lambda: command.main([str(argument) for argument in arguments]))


def table(run: Path) -> list[dict]:
    with open(run / "sweep.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="session")
def pretrained(images, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sweep") / "run"
    network = ("--model", "mobilenetv2-digits", "--data", images)
    assert call("pretrain", "--run", folder, *network, "--epochs", "8", "--batch", "16", "--lr", "0.02") == 0
    return folder


@pytest.fixture(scope="session")
def swept(pretrained, tmp_path_factory) -> Path:
    """A sweep in one go, not to be changed."""
    folder = Path(shutil.copytree(pretrained, tmp_path_factory.mktemp("swept") / "run"))
    assert call("sweep", "--run", folder, "--lambdas", *LAMBDAS, *OPTIONS) == 0
    return folder


@pytest.fixture
def copied(pretrained, tmp_path) -> Path:
    return Path(shutil.copytree(pretrained, tmp_path / "run"))


@pytest.mark.slow
def test_a_sweep_ends_with_table_csv_and_picture(copied, capsys):
    assert call("sweep", "--run", copied, "--lambdas", 10, 3, 10, *OPTIONS) == 0
    out, err = capsys.readouterr()
    rows = table(copied)
    assert [row["lambda"] for row in rows] == ["3.0", "10.0"] and list(rows[0])[-1] == "folded"
    for row in rows:
        folder = copied / f"lambda-{row['lambda']}"
        model, recipe = checkpoints.load(folder / "folded.safetensors")
        assert int(row["activations_removed"]) == len(recipe.removed) > 0 and int(row["gates"]) == 13
        assert {step: float(row[step]) for step in recipe.accuracy} == recipe.accuracy
        weighted = [m for m in model.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]
        assert int(row["depth"]) == len(weighted) < 21  # every layer of this network is on its longest path
        assert (
            checkpoints.read(folder / "original.safetensors")[0] == checkpoints.read(copied / "original.safetensors")[0]
        )
    assert (copied / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert out.startswith("accuracy in % after each stage") and "prefold 1/2" in err
    assert out.splitlines()[-1] == f"wrote {copied / 'sweep.csv'} and {copied / 'sweep.png'}"


@pytest.mark.slow
def test_what_is_done_is_not_repeated(copied, capsys):
    assert call("sweep", "--run", copied, "--lambdas", 3, *OPTIONS) == 0
    before = {path: path.stat().st_mtime_ns for path in (copied / "lambda-3.0").iterdir()}
    out = capsys.readouterr().out
    assert call("sweep", "--run", copied, "--lambdas", 3, *OPTIONS) == 0
    assert {path: path.stat().st_mtime_ns for path in (copied / "lambda-3.0").iterdir()} == before
    assert capsys.readouterr().out == out


@pytest.mark.slow
def test_ctrl_c_and_the_same_command_again(swept, copied, monkeypatch, capsys):
    draw, calls = loop.draw_gates, []

    def interrupted(*arguments: object) -> None:
        calls.append(1)
        if len(calls) == 3:  # after the first epoch of the second lambda
            raise KeyboardInterrupt
        draw(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "draw_gates", interrupted)
        assert call("sweep", "--run", copied, "--lambdas", *LAMBDAS[:3], *OPTIONS) == 130
    out, err = capsys.readouterr()
    assert out == "" and err.endswith("error: interrupted; give the same command again: what was finished is kept\n")
    assert not (copied / "lambda-1.0" / "prefold.safetensors").exists()
    assert call("sweep", "--run", copied, "--lambdas", *LAMBDAS[:2], *OPTIONS) == 0
    assert "prefold: goes on after epoch 1 of 2" in capsys.readouterr().err
    assert table(copied) == table(swept)[:2]


@pytest.mark.slow
def test_a_lambda_that_removes_nothing_is_a_point_like_any_other(copied, capsys):
    assert call("sweep", "--run", copied, "--lambdas", 0, "--prefold=--epochs 0", "--finetune=--epochs 0") == 0
    out, err = capsys.readouterr()
    assert "no activation can go" in err and "(EDNL): 21 layers" in out
    (row,) = table(copied)
    assert (row["activations_removed"], row["depth"], row["folded"]) == ("0", "21", "")


@pytest.mark.slow
def test_a_point_that_fails_does_not_stop_the_others(copied, capsys):
    assert call("sweep", "--run", copied, "--lambdas", 0, 3e38, *OPTIONS) == 1
    out, err = capsys.readouterr()
    assert "1 of 2 points failed: lambda-3e+38: prefold, epoch 1: the loss is" in err.splitlines()[-1]
    assert [row["lambda"] for row in table(copied)] == ["0.0"] and "3e+38" not in out


class TestBadInput:
    """One line on stderr, exit 2, and nothing written."""

    @pytest.fixture
    def refused(self, copied, capsys):
        def check(*message: str, options: tuple = OPTIONS, folder: Path = copied) -> None:
            before = sorted(copied.rglob("*"))
            assert call("sweep", "--run", folder, "--lambdas", 1, *options) == 2
            err = capsys.readouterr().err
            assert err.count("error: ") == 1 and err.count("\n") == 1 + err.count("sweep: ")
            for part in message:
                assert part in err.splitlines()[-1]
            assert sorted(copied.rglob("*")) == before

        return check

    def test_options_of_a_later_stage(self, refused):
        refused("--threshold", "'wide'", options=("--prefold=--epochs 1", "--finetune=--threshold wide"))

    def test_no_pretrained_network(self, refused, tmp_path):
        refused("original.safetensors: no such checkpoint", folder=tmp_path / "none")

    def test_no_ray(self, refused, monkeypatch):
        monkeypatch.setitem(sys.modules, "ray", None)
        refused("--engine ray: Ray is not installed; pip install ray", options=(*OPTIONS, "--engine", "ray"))

    @pytest.mark.slow
    def test_other_settings(self, refused, copied, capsys):
        assert call("sweep", "--run", copied, "--lambdas", 1, *OPTIONS) == 0
        capsys.readouterr()
        refused("prefold was started there with other settings", options=("--prefold=--epochs 3", OPTIONS[1]))


@pytest.fixture
def two_workers() -> Iterator[dict[str, str]]:
    """A local Ray cluster with room for two tasks; the environment of a command that is to use it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="ray") as folder:  # a short name: sockets are in there
        options = ["--num-cpus=2", "--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={folder}"]
        head = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}", *options],
            env=environment,
            stdout=subprocess.DEVNULL,
        )
        try:
            yield {**environment, "RAY_ADDRESS": f"127.0.0.1:{port}"}
        finally:
            head.terminate()
            head.wait(60)


def worker_of(task: str) -> int:
    """The process that runs the Ray ``task``."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it may have ended meanwhile
            if (process / "cmdline").read_text().startswith(f"ray::{task}"):
                return int(process.name)
    raise AssertionError(f"no process runs {task}")


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed; pip install ray")
def test_a_sweep_over_ray_whose_worker_is_killed_ends_like_the_sequential_one(swept, copied, two_workers):
    arguments = ["sweep", "--run", str(copied), "--lambdas", *LAMBDAS, *OPTIONS, "--engine", "ray"]
    sweep = subprocess.Popen(
        [sys.executable, "-m", "train", *arguments],
        cwd=ROOT, env=two_workers, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not (copied / "lambda-1.0" / ".prefold.state").exists():
        assert sweep.poll() is None, sweep.communicate()[1]
        time.sleep(0.01)
    os.kill(worker_of("lambda-1.0"), signal.SIGKILL)
    out, err = sweep.communicate(timeout=100)
    assert sweep.returncode == 0, err
    assert err.count("sweep: lambda-1.0") == 2 and err.count("sweep: lambda-0.0") == 1
    assert table(copied) == table(swept)
    assert out.startswith("accuracy in % after each stage")
