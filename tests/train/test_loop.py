import contextlib
import copy
import csv
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from layer_folding.errors import CheckError, InputError
from layer_folding.fold import gates, linearize
from layer_folding.fold.models import build
from layer_folding.train import health, state
from layer_folding.train.data import Dataset, Split
from layer_folding.train.loop import Hyperparameters, accuracy, train
from layer_folding.train.scheduled import plan

ROOT = Path(__file__).parents[2]
EXAMPLE = torch.zeros(1, 1, 16, 16)
SMALL = Hyperparameters(epochs=3, batch=16, lr=0.05, weight_decay=5e-4, seed=0, penalty=0.25, gate_lr=5.0)


def dataset() -> Dataset:
    """Two classes, dark and bright noise, that a network learns in a few steps."""
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        labels = torch.arange(count) % 2
        noise = torch.randint(0, 128, (count, 1, 16, 16), generator=generator)
        return Split((noise + 127 * labels.view(-1, 1, 1, 1)).to(torch.uint8), labels)

    return Dataset("noise", ("dark", "bright"), split(64), split(20), (0.5,), (0.5,), flip=True)


def network() -> nn.Module:
    torch.manual_seed(0)
    return build("mobilenetv2-digits", 2, 1)


def gated() -> nn.Module:
    return linearize(network(), EXAMPLE)


def rows(run: Path) -> list[dict]:
    with open(run / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_one_image_at_a_time_is_refused_where_batch_norm_needs_more(tmp_path):
    data = replace(dataset(), train=Split(torch.zeros(4, 1, 16, 16, dtype=torch.uint8), torch.zeros(4).long()))
    model = nn.Sequential(nn.Conv2d(1, 2, 16), nn.BatchNorm2d(2), nn.Flatten())
    with pytest.raises(InputError, match="--batch: BatchNorm cannot learn from one image at a time"):
        train(model, data, tmp_path, "pretrain", Hyperparameters(1, 1, 0.02, 5e-4, 0))


def test_it_learns(tmp_path):
    model, data = network(), dataset()
    train(model, data, tmp_path, "pretrain", Hyperparameters(12, 8, 0.02, 5e-4, 0))
    assert accuracy(model, data) > 0.9


def test_it_writes_down_what_happened(tmp_path, capsys):
    model, data = gated(), dataset()
    train(model, data, tmp_path, "prefold", SMALL)
    assert not model.training
    written = rows(tmp_path)
    assert [(row["stage"], row["epoch"]) for row in written] == [("prefold", "1"), ("prefold", "2"), ("prefold", "3")]
    alphas = {name: gate.alpha.item() for name, gate in gates(model).items()}
    assert {name: float(written[-1][name]) for name in alphas} == alphas and len(alphas) == 13
    assert float(written[-1]["accuracy"]) == accuracy(model, data)
    assert (tmp_path / "gates.png").read_bytes().startswith(b"\x89PNG")
    out, err = capsys.readouterr()
    epochs = [line.split("  ")[0] for line in err.splitlines() if not line.startswith("warning: ")]
    assert out == "" and epochs == [f"prefold {i}/3" for i in (1, 2, 3)]


@pytest.mark.slow
def test_stages_share_one_table(tmp_path):
    data = dataset()
    train(build("mobilenetv2-digits", 2, 1), data, tmp_path, "pretrain", Hyperparameters(1, 16, 0.05, 0.0, 0))
    train(gated(), data, tmp_path, "prefold", SMALL)
    assert [row["stage"] for row in rows(tmp_path)] == ["pretrain", "prefold", "prefold", "prefold"]
    assert rows(tmp_path)[0]["blocks.0.expand.act"] == ""


PLANNED = ("blocks.0.expand.act", "blocks.0.depthwise.act")


@pytest.mark.parametrize(
    "h",
    [
        SMALL,
        replace(SMALL, ema=0.9, schedule="cosine", label_smoothing=0.1),
        replace(SMALL, remove=PLANNED, ema=0.9, distill=0.5, distill_features=1.0),
    ],
    ids=["learned", "average", "planned"],
)
@pytest.mark.slow
def test_an_interrupted_run_ends_like_an_unbroken_one(tmp_path, monkeypatch, capsys, h):
    teacher = copy.deepcopy(network()) if h.distill else None
    whole, broken, resumed = (plan(gated(), h.remove, EXAMPLE)[0] if h.remove else gated() for _ in range(3))
    train(whole, dataset(), tmp_path / "whole", "prefold", h, teacher)
    stop_at(monkeypatch, epoch=3)
    with pytest.raises(KeyboardInterrupt):
        train(broken, dataset(), tmp_path / "broken", "prefold", h, teacher)
    monkeypatch.undo()
    assert len(rows(tmp_path / "broken")) == 2
    capsys.readouterr()
    train(resumed, dataset(), tmp_path / "broken", "prefold", h, teacher)
    assert "goes on after epoch 2 of 3" in capsys.readouterr().err
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    same = [{key: value for key, value in row.items() if key != "seconds"} for row in rows(tmp_path / "whole")]
    assert [{key: value for key, value in row.items() if key != "seconds"} for row in rows(tmp_path / "broken")] == same
    state.remove(tmp_path / "broken", "prefold")
    assert sorted(path.name for path in (tmp_path / "broken").iterdir()) == ["gates.png", "metrics.csv"]


def stop_at(monkeypatch, epoch: int) -> None:
    """Ctrl-C in the middle of ``epoch``: at its second batch of four."""
    from layer_folding.train import batches

    calls = []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 4 * (epoch - 1) + 2:
            raise KeyboardInterrupt
        return augment(*arguments)

    augment = batches.augment
    monkeypatch.setattr(batches, "augment", interrupted)


@pytest.mark.slow
def test_planned_gates_open_on_schedule_and_the_others_stay_closed(tmp_path):
    model = plan(gated(), PLANNED, EXAMPLE)[0]
    train(model, dataset(), tmp_path, "prefold", replace(SMALL, remove=PLANNED))
    assert {name for name, gate in gates(model).items() if gate.alpha == 1} == set(PLANNED)
    assert {gate.alpha.item() for name, gate in gates(model).items() if name not in PLANNED} == {0}
    written = rows(tmp_path)
    assert [float(row[PLANNED[0]]) for row in written] == pytest.approx([0.25, 0.75, 1.0])
    assert int(written[-1]["depth"]) == int(written[0]["depth"]) - 2


def test_averaged_weights_are_the_result(tmp_path):
    last, averaged = network(), network()
    h = Hyperparameters(2, 16, 0.05, 5e-4, 0, schedule="constant")
    train(last, dataset(), tmp_path / "last", "pretrain", h)
    train(averaged, dataset(), tmp_path / "averaged", "pretrain", replace(h, ema=0.9))
    start, end, between = (m.stem.conv.weight for m in (network(), last, averaged))
    assert 0 < (between - start).norm() < (end - start).norm()


def test_gates_have_no_weight_decay(tmp_path):
    model = gated()
    for name, parameter in model.named_parameters():
        if name.endswith(".alpha"):
            parameter.data.fill_(0.5)
            parameter.register_hook(torch.zeros_like)  # what moves it now is weight decay alone
    weights = model.stem.conv.weight.clone()
    train(model, dataset(), tmp_path, "prefold", Hyperparameters(1, 16, 0.1, weight_decay=0.5, seed=0))
    assert {gate.alpha.item() for gate in gates(model).values()} == {0.5}
    assert not torch.equal(model.stem.conv.weight, weights)


def test_a_loss_that_is_not_finite_is_said(tmp_path):
    with pytest.raises(CheckError, match=r"pretrain, epoch 1: the loss is (nan|inf); give a lower --lr \(was 1e\+30\)"):
        train(network(), dataset(), tmp_path, "pretrain", Hyperparameters(1, 16, 1e30, 0.0, 0))


@pytest.mark.slow
def test_a_run_that_goes_wrong_keeps_the_last_good_epoch(tmp_path, monkeypatch):
    """The loss is lost in the second of three epochs; the state is that of the first."""
    from layer_folding.train import stepping

    def objective(model, *arguments, **options):
        loss, task = right(model, *arguments, **options)
        return (loss * math.nan if (tmp_path / "metrics.csv").exists() else loss), task

    right = stepping.objective
    monkeypatch.setattr(stepping, "objective", objective)
    gates_said = (
        r"gates before: blocks\.0\.expand\.act 0\.\d\d, .*; give a lower --lr \(was 0.05\) or --lambda \(was 0.25\)"
    )
    with pytest.raises(CheckError, match=rf"prefold, epoch 2: the loss is nan; {gates_said}.*is kept"):
        train(gated(), dataset(), tmp_path, "prefold", SMALL)
    kept = gated()
    assert len(state.resume(tmp_path, "prefold", {"model": kept})) == len(rows(tmp_path)) == 1
    assert all(value.isfinite().all() for value in kept.state_dict().values())


def test_weights_that_are_lost_in_the_last_step_are_not_kept(tmp_path):
    model = network()
    model.stem.conv.weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(CheckError, match="pretrain, epoch 1: the loss is nan"):
        train(model, dataset(), tmp_path, "pretrain", Hyperparameters(1, 64, 0.05, 5e-4, 0))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("best", "task", "collapsed"), [(0.3, 2.4, True), (0.3, 2.2, False), (2.2, 2.4, False)])
def test_collapse_is_worse_than_guessing_after_having_learned(best, task, collapsed):
    with (
        pytest.raises(CheckError, match=r"x: the network collapsed: .*0\.30 to 2\.40, and guessing has 2\.30")
        if (collapsed)
        else contextlib.nullcontext()
    ):
        health.check(1.0, task, best, math.log(10), SMALL, "x", {})


def test_an_explosion_is_far_worse_than_guessing():
    health.check(1.0, 900.0, math.inf, 1.0, SMALL, "x", {})
    with pytest.raises(CheckError, match=r"x: the network exploded: its loss is 2e\+03, and guessing has 1\.00"):
        health.check(1.0, 2000.0, math.inf, 1.0, SMALL, "x", {})


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision(tmp_path, precision):
    """Much the same weights, which stay float32; a second run goes on with the same scale of the loss."""
    h = replace(SMALL, epochs=1, lr=0.01)
    full, mixed = gated(), gated()
    train(full, dataset(), tmp_path / "full", "prefold", h)
    train(mixed, dataset(), tmp_path / precision, "prefold", replace(h, precision=precision))
    for (name, expected), actual in zip(full.named_parameters(), mixed.parameters(), strict=True):
        assert actual.dtype == torch.float32
        torch.testing.assert_close(actual, expected, rtol=0.05, atol=0.02, msg=name)
    assert not torch.equal(full.stem.conv.weight, mixed.stem.conv.weight)


def test_a_batch_in_parts_gives_the_gradient_of_the_whole(tmp_path):
    """Where there is no BatchNorm, which sees a part at a time."""
    torch.manual_seed(0)
    whole = nn.Sequential(nn.Flatten(), nn.Linear(256, 8), nn.ReLU(), nn.Linear(8, 2))
    parts, start = copy.deepcopy(whole), whole[1].weight.clone()
    h = Hyperparameters(1, 16, 0.05, 5e-4, 0)
    train(whole, dataset(), tmp_path / "whole", "pretrain", h)
    train(parts, dataset(), tmp_path / "parts", "pretrain", replace(h, accumulate=3))
    assert (whole[1].weight - start).abs().max() > 1e-3
    torch.testing.assert_close(parts[1].weight, whole[1].weight, rtol=0, atol=1e-6)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half", os.urandom(2000)])
def test_a_damaged_state_is_said(tmp_path, content):
    (tmp_path / ".prefold.state").write_bytes(content)
    with pytest.raises(InputError, match=r"\.prefold\.state: damaged; delete it"):
        train(gated(), dataset(), tmp_path, "prefold", SMALL)


def test_a_state_of_another_version_is_said(tmp_path):
    torch.save({"rows": []}, tmp_path / "other")
    state.write(tmp_path, "prefold", (tmp_path / "other").read_bytes())
    with pytest.raises(InputError, match=r"\.prefold\.state: another version wrote it; delete it"):
        train(gated(), dataset(), tmp_path, "prefold", SMALL)


@pytest.fixture
def folder(tmp_path) -> Path:
    """The data set as image files."""
    from PIL import Image

    data = dataset()
    for name, split in (("train", data.train), ("test", data.test)):
        for i, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
            path = tmp_path / "images" / name / data.classes[label] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0].numpy()).save(path)
    return tmp_path / "images"


@pytest.mark.slow
def test_ctrl_c_and_kill_during_prefold_then_the_same_command(folder, tmp_path):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONWARNINGS": "error"}

    def command(run: str, stage: str, *more: str) -> list[str]:
        options = ["--run", str(tmp_path / run), "--batch", "16", *more]
        return [sys.executable, "-m", "train", stage, *options]

    def start(run: str) -> subprocess.Popen:
        """Prefold until the first two epochs that this call adds are in metrics.csv."""
        finished = len(rows(tmp_path / run))
        process = subprocess.Popen(
            command(run, "prefold", "--epochs", "12"), cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
        )
        while len(rows(tmp_path / run)) < finished + 2:
            assert process.poll() is None
            time.sleep(0.01)
        return process

    def finish_run(run: str, stage: str, *more: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            command(run, stage, *more), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200
        )

    network = ("--model", "mobilenetv2-digits", "--data", str(folder), "--epochs", "1")
    for run in ("whole", "killed"):
        assert finish_run(run, "pretrain", *network).returncode == 0
    assert finish_run("whole", "prefold", "--epochs", "12").returncode == 0
    interrupted = start("killed")
    interrupted.send_signal(signal.SIGINT)
    assert interrupted.communicate()[1].endswith(
        "\nerror: interrupted; give the same command again: what was finished is kept\n"
    )
    assert interrupted.returncode == 130
    killed = start("killed")
    killed.kill()
    killed.communicate()
    assert not (tmp_path / "killed" / "prefold.safetensors").exists()
    again = finish_run("killed", "prefold", "--epochs", "12")
    assert again.returncode == 0, again.stderr
    assert "goes on after epoch" in again.stderr
    whole, killed = (tmp_path / run / "prefold.safetensors" for run in ("whole", "killed"))
    assert whole.read_bytes() == killed.read_bytes()


class Viewing(nn.Module):
    """The code of many a tutorial: a view that tensors in channels last do not have."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
        self.classifier = nn.Linear(4 * 16 * 16, 2)

    def forward(self, x):
        x = self.layers(x)
        return self.classifier(x.view(x.size(0), -1))


def test_a_network_that_needs_contiguous_tensors_is_trained(tmp_path):
    torch.manual_seed(0)
    model = Viewing()
    train(model, dataset(), tmp_path, "pretrain", replace(SMALL, penalty=0.0))
    assert accuracy(model, dataset()) > 0.9
    gated = linearize(model, EXAMPLE)
    train(gated, dataset(), tmp_path, "prefold", SMALL)
    assert accuracy(gated, dataset()) > 0.9


_POINTWISE = """
from dataclasses import replace
import sys
import torch
from torch import nn
from pathlib import Path
from layer_folding.train.loop import train
from tests.train.test_loop import SMALL, dataset
given = dataset()
colour = [replace(split, images=split.images.repeat(1, 3, 1, 1)) for split in (given.train, given.test)]
given = replace(given, train=colour[0], test=colour[1], mean=(0.5,) * 3, std=(0.5,) * 3)
model = nn.Sequential(nn.Conv2d(3, 8, 1, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
train(model, given, Path(sys.argv[1]), "pretrain", replace(SMALL, penalty=0.0))
"""


@pytest.mark.slow
def test_a_first_layer_of_1x1_with_a_stride_is_trained(tmp_path):
    """PyTorch's own kernel, channels last, ends the process there: so in a process of its own."""
    done = subprocess.run([sys.executable, "-c", _POINTWISE, tmp_path], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    assert (tmp_path / "metrics.csv").exists()
