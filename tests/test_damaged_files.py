"""Files of every format that the product reads, damaged: exit code 0, 1 or 2 with one line, no traceback, no hang.

`make fuzz-files N=10000` tries many, each time others; `make test` tries the same few of each format.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from layer_folding import front_door, latency_tables, plans
from layer_folding.command_line import TRACEBACK, run
from layer_folding.epoch_records import COLUMNS
from layer_folding.fold import checkpoints
from layer_folding.segment_names import APART, whole_network
from layer_folding.train import fitting
from tests.damage import damaged

TRIES = int(os.environ.get("FUZZ_FILES", "60"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))
PATIENCE_S = 120  # with which every command is done many times over, on a busy machine too

PRETRAIN = "pretrain --run new --model mlp-relu --size 4 --epochs 0 --data images"
CHOICE = "--choose hidden.1=1"
SHOWN = (
    *("original.safetensors", "prefold.safetensors", "folded.safetensors", "latency.csv", "latency.json", "plan.json"),
    *("importance.csv", "bench.json", "fold.json", "config.json", "eval.npz", "segments/segments.json"),
)
# What is damaged, and the command that reads it.
READS = [
    ("run/original.safetensors", "scan run/original.safetensors"),
    ("run/original.safetensors", "prefold --run run --epochs 0"),
    ("run/prefold.safetensors", "finetune --run run --epochs 0"),
    ("run/hardened.safetensors", "fold run"),
    ("run/folded.safetensors", "export run/folded.safetensors -o out.onnx"),
    ("run/eval.npz", "fold run"),
    ("run/eval.npz", "bench small.onnx --seconds 0.001 --data run/eval.npz"),
    ("run/calib.npz", "importance run --from one-shot"),
    ("run/calib.npz", "export small.onnx -o out.onnx --precision int8 --calibration run/calib.npz"),
    ("run/config.json", "prefold --run run --epochs 0"),
    ("small.onnx", "export small.onnx -o out.onnx"),
    ("small.onnx", "export small.onnx -o out.onnx --precision fp16"),
    ("small.onnx", "bench small.onnx --seconds 0.001"),
    ("small.onnx", "show small.onnx --json"),
    ("run/latency.csv", "plan run --latency run/latency.csv"),
    ("run/latency.csv", "plan --latency run/latency.csv --optimal optimal.csv"),
    ("run/latency.json", "plan run --latency run/latency.csv"),
    ("run/latency.json", "table run/segments -o run/latency.csv --seconds 0.001 --repeats 1 --force"),
    ("run/segments/segments.json", "table run/segments -o new.csv --seconds 0.001 --repeats 1"),
    ("run/importance.csv", "plan run --latency run/latency.csv --importance run/importance.csv"),
    ("run/plan.json", "bench small.onnx other.onnx --seconds 0.001 --plan run/plan.json"),
    *((f"run/{name}", f"show run/{name}") for name in SHOWN),
    ("run/plan.json", "show run/plan.json --json"),
    ("metrics.csv", "show metrics.csv --csv"),
    ("sweep.csv", "show sweep.csv"),
    ("run/fold.json", "show run"),
    ("run/bench.json", "report run"),
    ("run/fold.json", "report run"),
    ("run/config.json", "report run"),
    ("run/plan.json", "report run"),
    ("run/importance.csv", "report run"),
    ("weights.pt", f"{PRETRAIN} --weights weights.pt"),
    ("weights.safetensors", f"{PRETRAIN} --weights weights.safetensors"),
    ("gates.csv", "prefold --run run --epochs 0 --gate-weights gates.csv"),
    ("gates.json", "prefold --run run --epochs 0 --gate-weights gates.json"),
    ("names.txt", "prefold --run run --epochs 0 --remove names.txt"),
    ("fitted/prefold.safetensors", "finetune --run fitted --epochs 0"),
    ("fitted/.prefold.state", f"fit fitted {CHOICE}"),
    ("fitted/plan.json", "fit fitted --plan fitted/plan.json"),
    ("fitted/plan.txt", "fit fitted --plan fitted/plan.txt"),
    *(("images/train/a/0." + suffix, PRETRAIN) for suffix in ("png", "jpg", "tiff", "webp")),
]


class Hang(BaseException):
    """Not an Exception, which a reader may take for a damaged file."""


def call(*words: str) -> int:
    with warnings.catch_warnings(), contextlib.suppress(SystemExit):
        warnings.simplefilter("ignore")
        return run(lambda: front_door.call([*words]))
    return 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Iterator[Path]:
    """A folder with a whole file of every format; the commands run in it."""
    folder = tmp_path_factory.mktemp("whole")
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in ("a", "b"):
            (folder / "images" / split / label).mkdir(parents=True)
            for suffix in ("png", "jpg", "tiff", "webp"):
                image = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
                image.save(folder / "images" / split / label / f"0.{suffix}")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setenv(TRACEBACK, "1")
        for line in (
            f"{PRETRAIN.replace('new', 'run')}",
            "prefold --run run --epochs 0 --gate all --remove hidden.1,hidden.3",
            "finetune --run run --epochs 0",
            "fold run",
            "export run/original.safetensors -o small.onnx",
            "segments run",
            "table run/segments -o run/latency.csv --seconds 0.001 --repeats 1",
            "times",
            "importance run --from gates",
            "plan run --latency run/latency.csv",
        ):
            if line == "times":
                _make_merges_pay(Path("run/latency.csv"))
            else:
                assert call(*line.split()) == 0, line
        shutil.copy("small.onnx", "other.onnx")
        assert call("bench", "small.onnx", "other.onnx", "--seconds", "0.001", "-o", "run/bench.json") == 0
        model, _ = checkpoints.load("run/original.safetensors")
        torch.save(model.state_dict(), "weights.pt")
        shutil.copy("run/original.safetensors", "weights.safetensors")
        Path("gates.csv").write_text("gate,weight\nhidden.1,1\nhidden.3,0.5\n")
        Path("gates.json").write_text('{"hidden.1": 1, "hidden.3": 0.5}')
        Path("metrics.csv").write_text(f"{','.join(COLUMNS)}\npretrain,1,1.5,1.5,0.5,0,3,0.1\n")
        Path("sweep.csv").write_text("lambda,gates,activations_removed,depth,original\n0.25,4,2,3,0.5\n")
        Path("names.txt").write_text("hidden.1\nhidden.3\n")
        _fitted(tmp_path_factory.mktemp("data"), rng)
        yield folder


def _fitted(data: Path, rng: np.random.Generator) -> None:
    """Make a run that was fitted, with the state of its fit and a plan that fits."""
    for split, images in (("train", 70), ("test", 2)):
        for label in ("a", "b"):
            (data / split / label).mkdir(parents=True)
            for number in range(images):
                Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8)).save(data / split / label / f"{number}.png")
    run, state = Path("fitted"), Path("fitted/.prefold.state")
    pretrain = f"pretrain --run {run} --model mlp-relu --size 4 --epochs 0 --data {data}"
    fit = f"fit {run} {CHOICE}"
    assert call(*pretrain.split()) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting.trained, "finish", _interrupted)
        assert call(*fit.split()) == 130
    solved = state.read_bytes()
    assert call(*fit.split()) == 0
    state.write_bytes(solved)
    plan = plans.read_plan("run/plan.json")
    merge = replace(plan.merges[0], activations=("hidden.1",), layers=("hidden.0", "hidden.2"), shape="1")
    plan = replace(plan, merges=(merge,))
    plans.write_plan(run / "plan.json", plan)
    (run / "plan.txt").write_text("".join(f"{line}\n" for line in plan.lines))


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(("name", "line"), READS, ids=[f"{name}: {line}" for name, line in READS])
@pytest.mark.slow
def test_a_damaged_file_ends_in_one_line(whole, tmp_path, monkeypatch, capsys, name, line):
    for number in range(max(TRIES // len(READS), 1)):
        rng = random.Random(f"{SEED} {number} {name} {line}")
        folder = Path(shutil.copytree(whole, tmp_path / str(number), copy_function=os.link))
        run = "fitted" if line.startswith("fit ") else "run" if "prefold" in line else None
        if run:
            for file in ("config.json", "prefold.safetensors"):
                if name != f"{run}/{file}":
                    _undone(folder / run / file)
        content = damaged((folder / name).read_bytes(), Path(name).suffix, rng)
        (folder / name).unlink()
        (folder / name).write_bytes(content)
        monkeypatch.chdir(folder)
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        with _at_most(PATIENCE_S):
            code = call(*line.split())
        err = capsys.readouterr().err
        what = f"try {number} of seed {SEED}: {folder / name}: {line}: exit code {code}: {err}"
        assert code in (0, 1, 2) and "Traceback" not in err, what
        errors = [text for text in err.splitlines() if text.startswith("error: ")]
        assert len(errors) == (code != 0) and (code == 0 or err.splitlines()[-1] == errors[0]), what
        shutil.rmtree(folder)


def _undone(path: Path) -> None:
    """Make the run of ``path`` one that has not been prefolded."""
    if path.suffix == ".safetensors":
        path.unlink()
        return
    config = json.loads(path.read_text())
    config["stages"] = {"pretrain": config["stages"]["pretrain"]}
    path.unlink()  # it is a link to the whole one
    path.write_text(json.dumps(config))


def _make_merges_pay(path: Path) -> None:
    """Give the segments of a table, measured in no time, times that a plan can be made with."""
    table = latency_tables.read_table(path)
    whole = whole_network(name for segment in table.segments for name in segment.names)
    timed = []
    for segment in table.segments:
        time = 10.0 if whole in segment.names else 2.0 if segment.names[0].startswith(APART) else 1.0
        timed.append(replace(segment, time=time, stdev=0.01, ci95=(time - 0.01, time + 0.01)))
    latency_tables.write_table(path, replace(table, segments=tuple(timed)))


@contextlib.contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    def hang(number: int, frame: object) -> None:
        raise Hang(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, hang)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
