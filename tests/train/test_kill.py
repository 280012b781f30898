"""Kill training at random moments: it must end as if nothing had happened."""

import hashlib
import multiprocessing
import random
import signal
import time
from pathlib import Path

import matplotlib.pyplot  # noqa: F401, the fork server imports it once for all
import pytest
import torch
from torch import nn

from layer_folding.fold import linearize
from layer_folding.train import config
from layer_folding.train.hyperparameters import Hyperparameters
from layer_folding.train.loop import train
from tests.train.test_loop import dataset, rows

KILLS = 20
H = Hyperparameters(
    epochs=30, batch=16, lr=0.05, weight_decay=5e-4, seed=0, ema=0.9, penalty=0.25, distill=0.5, label_smoothing=0.1
)


def network() -> nn.Module:
    torch.manual_seed(0)
    first, second = nn.Conv2d(1, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1)
    features = (first, nn.BatchNorm2d(4), nn.ReLU(), second, nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    return nn.Sequential(*features, nn.Dropout(0.2), nn.Linear(64, 2))


def prefold(run: Path) -> None:
    """A stage that has all kinds of state, as the command runs it; a digest of the weights is its result."""
    torch.set_num_threads(1)
    config.enter(run, "prefold", H, {})
    model = linearize(network(), torch.zeros(1, 1, 16, 16))
    train(model, dataset(), run, "prefold", H, teacher=network())
    weights = b"".join(value.numpy().tobytes() for value in model.state_dict().values())
    (run / "result").write_text(hashlib.sha256(weights).hexdigest())


def finished_epochs(run: Path) -> int:
    return len(rows(run)) if (run / "metrics.csv").exists() else 0


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(1200)
def test_20_kills_at_random_moments(tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # a process then starts in no time
    whole, broken = tmp_path / "whole", tmp_path / "broken"

    def start(run: Path) -> multiprocessing.Process:
        process = context.Process(target=prefold, args=(run,))
        process.start()
        return process

    begin = time.perf_counter()
    start(whole).join()
    epoch_seconds = (time.perf_counter() - begin) / H.epochs
    moments = random.Random(0)
    for _ in range(KILLS):
        process = start(broken)
        epochs = finished_epochs(broken) + moments.choice((0, 1))  # starting up is killed too, but not always
        while finished_epochs(broken) < epochs and process.is_alive():
            time.sleep(0.01)
        process.join(moments.uniform(0, epoch_seconds))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    assert 0 < finished_epochs(broken) < H.epochs
    start(broken).join()
    assert (broken / "result").read_text() == (whole / "result").read_text()
    assert finished_epochs(broken) == H.epochs
    expected = [".prefold.state", "config.json", "gates.png", "metrics.csv", "result"]
    assert sorted(path.name for path in broken.iterdir()) == expected
