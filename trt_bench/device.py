"""Names of the machine that a latency was measured on."""

import os
import platform
from pathlib import Path

import numpy


def cpu_name() -> str:
    """The processor's name as the system gives it, or its architecture."""
    for line in _read("/proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model", "Hardware") and value.strip():
            return " ".join(value.split())
    return platform.processor() or platform.machine()


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def board() -> str | None:
    """The board's name from the device tree (such as a Jetson's), or None."""
    return _read("/proc/device-tree/model").strip("\0 \n") or None


def describe() -> dict:
    """The host, for the ``device`` object of bench.json."""
    return {
        "cpu": cpu_name(),
        "cores": cores(),
        "board": board(),
        "machine": platform.machine(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "numpy": numpy.__version__,
    }


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
