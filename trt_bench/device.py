"""The machine that a latency was measured on, and whether two latencies were measured in the same state of it."""

import os
import platform
from dataclasses import replace
from pathlib import Path

import numpy

from layer_folding.device_records import DeviceRecord, JetsonRecord

from . import jetson, nvml
from .cuda import Gpu
from .sysfs import text

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


def power_mode() -> str | None:
    """The power mode of a Jetson, such as 15W."""
    record = jetson.describe()
    return None if record is None else record.nvpmodel


def host() -> DeviceRecord:
    """The host alone."""
    return DeviceRecord(
        cpu=cpu_name(),
        cores=cores(),
        load_average=os.getloadavg()[0],
        board=board(),
        jetson=jetson.describe(),
        machine=platform.machine(),
        os=platform.platform(),
        python=platform.python_version(),
        numpy=numpy.__version__,
    )


def cpu(runtime_version: str) -> DeviceRecord:
    """The host, whose CPU runs the networks."""
    return replace(host(), kind="cpu", name=cpu_name(), runtime_version=runtime_version)


def gpu(runtime_version: str, cuda: Gpu | None = None) -> DeviceRecord:
    """The host and the GPU ``cuda`` that runs the networks; None: the first one, as far as NVML knows it."""
    limits = nvml.describe(None if cuda is None else cuda.pci)
    record = replace(host(), kind="gpu", runtime_version=runtime_version, driver=driver(), **vars(limits))
    if cuda is None:
        return replace(record, name=limits.nvml_name or "GPU")
    return replace(
        record,
        name=record.board if record.jetson and record.board else cuda.name,  # every Orin's GPU is named Orin
        compute_capability=cuda.compute_capability,
        cuda_driver=cuda.cuda_driver,
        pci=cuda.pci,
    )


def driver() -> str | None:
    """The version of NVIDIA's kernel driver."""
    return text(Path("/sys/module/nvidia/version"))


def differences(first: DeviceRecord, second: DeviceRecord) -> list[str]:
    """What differs in the state of two devices, such as "power mode: 15W and MAXN_SUPER"."""
    pairs = [(label, getattr(first, key), getattr(second, key)) for key, label in STATE.items()]
    boards = [record.jetson or JetsonRecord() for record in (first, second)]
    pairs += [(label, *(getattr(record, key) for record in boards)) for key, label in JETSON_STATE.items()]
    return [f"{label}: {_plain(a)} and {_plain(b)}" for label, a, b in pairs if a != b]


def _plain(value: object) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, tuple) else str(value)
