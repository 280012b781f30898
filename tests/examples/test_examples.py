"""The examples run as they are, and end with a shallower network: of the same accuracy, where they train one."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRAINED = ("plain.py", "lightning_module.py")
# These assert what they show.
CHECKED = ("backbone.py", "onnx_in.py", "segmentation.py", "transformers_image.py", "yolo.py")
TIMED = ("onnx_file.py",)
NEEDED = {
    "lightning_module.py": "lightning", "onnx_file.py": "onnx2torch", "transformers_image.py": "transformers",
    "yolo.py": "ultralytics",
}  # fmt: skip


def run(script: str) -> str:
    """What ``script`` prints."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / script)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("YOLO_OFFLINE", "True")


def require(script: str) -> None:
    package = NEEDED.get(script, "torch")
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}, which is not installed")


def test_each_is_run_here():
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == {*TRAINED, *CHECKED, *TIMED}


@pytest.mark.slow
@pytest.mark.parametrize("script", TRAINED)
def test_it_trains_and_folds(script):
    require(script)
    output = run(script)
    layers = [int(number) for number in re.findall(r"(\d+) layers", output)]
    accuracy = [float(number) for number in re.findall(r"([\d.]+) %", output)]
    assert len(layers) == 2 and layers[1] < layers[0]
    assert len(accuracy) == 3 and accuracy[1] == accuracy[2] and min(accuracy) > 50  # of 10 classes


@pytest.mark.slow
@pytest.mark.parametrize("script", CHECKED)
def test_it_folds(script):
    require(script)
    before, after = re.search(r"(\d+) => (\d+)", run(script)).groups()
    assert int(after) < int(before)


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("script", TIMED)
def test_it_measures_and_folds(script):
    test_it_folds(script)
