"""The machine that a latency was measured on, and whether two latencies were measured in the same state of it."""

import os
import platform
from pathlib import Path

import numpy

from trt_bench import jetson, nvml
from trt_bench.sysfs import text

# What must be equal for two latencies to be comparable; OS and Python, say, do not decide them.
STATE = {
    "kind": "processor",
    "name": "processor",
    "board": "board",
    "cores": "CPU cores",
    "runtime_version": "runtime version",
    "driver": "driver",
    "cuda_driver": "CUDA driver",
    "power_limit_w": "power limit",
}
JETSON_STATE = {"l4t": "Jetson Linux", "nvpmodel": "power mode", "gpu_clock_mhz": "GPU clock limits"}


def cpu_name() -> str:
    """The processor's name as the system gives it, or its architecture."""
    for line in (text(Path("/proc/cpuinfo")) or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model", "Hardware") and value.strip():
            return " ".join(value.split())
    return platform.processor() or platform.machine()


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def board() -> str | None:
    """The board's name from the device tree (such as a Jetson's), or None."""
    return text(Path("/proc/device-tree/model")) or None


def describe() -> dict:
    """The host, for the ``device`` object of bench.json."""
    return {
        "cpu": cpu_name(),
        "cores": cores(),
        "load_average": os.getloadavg()[0],  # before timing: runnable processes of the last minute
        "board": board(),
        "jetson": jetson.describe(),
        "machine": platform.machine(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "numpy": numpy.__version__,
    }


def gpu_identity(gpu) -> dict[str, str | None]:
    """What a TensorRT engine is built for: the GPU (a `trt_bench.cuda` object) and its driver."""
    return {
        "name": gpu.name,
        "compute_capability": gpu.compute_capability,
        "driver": text(Path("/sys/module/nvidia/version")),
        "cuda_driver": gpu.cuda_driver,
    }


def gpu(gpu=None) -> dict:
    """The GPU, for the ``device`` object of bench.json; what NVML knows of the first one where CUDA is not loaded."""
    if gpu is None:
        record = nvml.describe()
        return {"name": record.get("nvml_name") or "GPU", "driver": text(Path("/sys/module/nvidia/version")), **record}
    return {**gpu_identity(gpu), "pci": gpu.pci, **nvml.describe(gpu.pci)}


def differences(first: dict, second: dict) -> list[str]:
    """What differs in the state of two ``device`` objects, such as "power mode: 15W and MAXN_SUPER"."""
    pairs = [(label, first.get(key), second.get(key)) for key, label in STATE.items()]
    boards = [record.get("jetson") or {} for record in (first, second)]
    pairs += [(label, *(record.get(key) for record in boards)) for key, label in JETSON_STATE.items()]
    return [f"{label}: {a} and {b}" for label, a, b in pairs if a != b]
