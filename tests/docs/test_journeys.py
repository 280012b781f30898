"""Journeys of a user from beginning to end: the commands stand on a page, and are run as they stand there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torchvision
from PIL import Image

import layer_folding as lf
from examples.onnx_file import somebody_elses
from layer_folding import fold_results
from tests.docs.pages import ROOT, blocks


def commands(page: str, mention: str) -> str:
    """The one block of ``page`` that has ``mention`` in it."""
    (found,) = [block.text for block in blocks(ROOT / page) if mention in block.text]
    return found


def walk(text: str, folder: Path) -> str:
    """What the shell prints for ``text`` in ``folder``, where .venv is the Python that runs this."""
    if not (folder / ".venv").exists():
        (folder / ".venv").symlink_to(sys.prefix)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    environment["PATH"] = f"{folder}/.venv/bin:{environment['PATH']}"
    shell = ["bash", "-euo", "pipefail", "-c", text]
    done = subprocess.run(shell, cwd=folder, env=environment, capture_output=True, text=True, timeout=1400)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def opset(path: Path) -> int:
    return next(entry.version for entry in onnx.load(path).opset_import if entry.domain in ("", "ai.onnx"))


def photographs(folder: Path, count: int) -> None:
    folder.mkdir()
    draw = np.random.default_rng(0)
    for number in range(count):
        pixels = np.kron(draw.integers(0, 256, (4, 4, 3)), np.ones((8, 8, 1)))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")


@pytest.mark.slow
@pytest.mark.alone
def test_only_an_onnx_file_and_photos_for_a_board_that_reads_opset_17(tmp_path):
    pytest.importorskip("onnx2torch", reason="needs onnx2torch, which is not installed")
    example = torch.zeros(1, 3, 32, 32)
    somebody_elses(tmp_path / "model.onnx", example)
    photographs(tmp_path / "photos", 64)
    said = walk(commands("README.md", "layer-folding fit model.onnx"), tmp_path)
    before, after = map(int, re.search(r"(\d+) => (\d+) layers", said).groups())
    assert after < before
    assert {opset(tmp_path / name) for name in ("model.onnx", "faster.onnx", "simple.onnx")} == {17}
    assert lf.load(tmp_path / "faster.onnx")(example).shape == (1, 10)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_network_of_torchvision_and_a_folder_of_photos(tmp_path):
    torch.manual_seed(0)
    torch.save(torchvision.models.mobilenet_v2().state_dict(), tmp_path / "mobilenet.pt")
    photographs(tmp_path / "photos", 200)
    said = walk(commands("docs/planning.md", "--model torchvision:mobilenet_v2"), tmp_path)
    fold = fold_results.load(tmp_path / "runs/photos/fold.json")
    assert fold.fitted and fold.cost.folded.depth < fold.cost.original.depth
    assert re.search(r"^verdict: folded is ", said, re.M)


@pytest.mark.slow
def test_a_yolo_to_a_shallower_onnx_file(tmp_path, monkeypatch):
    pytest.importorskip("ultralytics", reason="needs ultralytics, which is not installed")
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("YOLO_OFFLINE", "True")
    lines = commands("docs/own-model.md", "examples/yolo.py").splitlines()
    (line,) = [line for line in lines if "yolo" in line]
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    said = walk(line, tmp_path)
    before, after = map(int, re.search(r"(\d+) => (\d+) layers", said).groups())
    assert after < before and "boxes with the folded file" in said
