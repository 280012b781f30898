"""The examples run as they are, and end with a shallower network of the same accuracy."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("script", ["plain.py", "lightning_module.py"])
def test_it_runs_and_folds(script):
    if script == "lightning_module.py" and importlib.util.find_spec("lightning") is None:
        pytest.skip("needs lightning, which is not installed")
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / script)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    layers = [int(number) for number in re.findall(r"(\d+) layers", done.stdout)]
    accuracy = [float(number) for number in re.findall(r"([\d.]+) %", done.stdout)]
    assert len(layers) == 2 and layers[1] < layers[0]
    assert len(accuracy) == 3 and accuracy[1] == accuracy[2] and min(accuracy) > 50  # of 10 classes
