import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from layer_folding.command_line import run
from layer_folding.fold import checkpoints
from layer_folding.train import commands as command
from layer_folding.train.distributed import synchronised

ROOT = Path(__file__).parents[2]
# Towards the identity: each process fits affine maps to its own part of the batch, so two do not learn what one learns.
OPTIONS = ("--epochs", "6", "--batch", "64", "--lambda", "0.25", "--gate-lr", "3", "--linear", "identity")


def call(*arguments: object) -> int:
    return run(lambda: command.main([str(argument) for argument in arguments]))


def torchrun(*arguments: object) -> subprocess.Popen:
    """`torchrun` of two processes of one thread; in a process group of its own, as a shell starts it."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--"]
    return subprocess.Popen(
        [*launcher, "train", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def prefolded_by_two(folder: Path) -> tuple[str, str]:
    process = torchrun("prefold", "--run", folder, *OPTIONS)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    return out, err


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> Path:
    """A network without BatchNorm, which would see other images in two processes than in one."""
    folder = tmp_path_factory.mktemp("distributed") / "run"
    network = ("--model", "mlp-relu", "--data", "digits", "--epochs", "3", "--batch", "64", "--lr", "0.05")
    assert call("pretrain", "--run", folder, *network) == 0
    return folder


@pytest.fixture(scope="module")
def unbroken(pretrained) -> Path:
    """Prefolded by two processes, not to be changed."""
    folder = Path(shutil.copytree(pretrained, pretrained.parent / "unbroken"))
    out, err = prefolded_by_two(folder)
    assert out.startswith("prefold: wrote") and out.count("\n") == 1  # process 0 alone says it
    assert [line[:11] for line in err.splitlines() if line.startswith("prefold")] == [
        f"prefold {i}/6" for i in range(1, 7)
    ]
    return folder


@pytest.mark.slow
@pytest.mark.alone
def test_two_processes_learn_what_one_learns_with_the_same_batch(pretrained, unbroken, tmp_path):
    """To 1e-5 for three epochs, 66 steps, in which gradients are summed in another order; measured: 2e-6. Then a gate
    passes 1, where the penalty has a kink, and rounding decides on which side a step ends: gates to 1e-2 at the end
    (measured: 1e-3), the same ones open, and at most one image of 360 classified otherwise."""
    folder = Path(shutil.copytree(pretrained, tmp_path / "run"))
    assert call("prefold", "--run", folder, *OPTIONS) == 0
    for one, two in list(zip(epochs(folder), epochs(unbroken), strict=True))[:3]:
        same = {name: float(value) for name, value in one.items() if name not in ("stage", "seconds")}
        assert {name: float(two[name]) for name in same} == pytest.approx(same, rel=1e-5, abs=1e-5)
    one, two = (checkpoints.read(path / "prefold.safetensors")[0] for path in (folder, unbroken))
    assert two.gates == pytest.approx(one.gates, abs=1e-2)
    opened = {name for name, alpha in one.gates.items() if alpha >= 0.9}
    assert opened == {name for name, alpha in two.gates.items() if alpha >= 0.9} and 0 < len(opened) < 4
    assert two.accuracy == pytest.approx(one.accuracy, abs=1 / 360 + 1e-9)


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("stop", ["kill one process", "Ctrl-C"])
def test_stopped_then_the_same_command(stop, pretrained, unbroken, tmp_path):
    folder = Path(shutil.copytree(pretrained, tmp_path / "run"))
    process = torchrun("prefold", "--run", folder, *OPTIONS)
    while len(epochs(folder)) < 2:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    if stop == "Ctrl-C":
        os.killpg(process.pid, signal.SIGINT)  # what a terminal does: the launcher and both processes get it
    else:
        os.kill(child(process.pid, rank=1), signal.SIGKILL)
    err = process.communicate(timeout=100)[1]
    assert process.returncode != 0
    assert not (folder / "prefold.safetensors").exists()
    assert "[rank" not in err  # which is how torch marks a traceback; torchrun itself says who was killed
    assert "prefold: goes on after epoch" in prefolded_by_two(folder)[1]
    whole, broken = (path / "prefold.safetensors" for path in (unbroken, folder))
    assert broken.read_bytes() == whole.read_bytes()


def epochs(folder: Path) -> list[dict]:
    with open(folder / "metrics.csv", newline="") as file:
        return [row for row in csv.DictReader(file) if row["stage"] == "prefold"]


def child(parent: int, rank: int) -> int:
    """The process ``rank`` that torchrun, process ``parent``, started."""
    for process in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if f"RANK={rank}" in Path(f"/proc/{process}/environ").read_text().split("\0"):
            return int(process)
    raise AssertionError(f"no process {rank}")


def test_synchronised_batchnorm_shares_all_tensors():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Sequential(nn.BatchNorm2d(2)))
    copy = synchronised(model)
    assert [type(module) for module in model.modules()].count(nn.BatchNorm2d) == 2
    assert [type(module) for module in copy.modules()].count(nn.SyncBatchNorm) == 2
    ours, theirs = ({**dict(m.named_parameters()), **dict(m.named_buffers())} for m in (model, copy))
    assert ours.keys() == theirs.keys() and all(theirs[name] is tensor for name, tensor in ours.items())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here, which has SyncBatchNorm")
def test_sync_bn_without_a_gpu(pretrained, capsys):
    before = (pretrained / "config.json").read_bytes()
    assert call("prefold", "--run", pretrained, "--sync-bn") == 2
    err = capsys.readouterr().err
    assert err.startswith("error: --sync-bn: PyTorch has SyncBatchNorm for GPUs only") and err.count("\n") == 1
    assert (pretrained / "config.json").read_bytes() == before
