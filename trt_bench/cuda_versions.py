"""Which CUDA the driver of this machine is for, and the cuda-python that fits it."""

import ctypes
import re

LIBRARY = "libcuda.so.1"


def dotted(version: int) -> str:
    """CUDA's 12060 as 12.6."""
    return f"{version // 1000}.{version % 1000 // 10}"


def of_driver() -> str | None:
    """The newest CUDA that the driver runs, such as 12.6; None without a driver. Needs no cuda-python."""
    try:
        version = ctypes.c_int()
        failed = ctypes.CDLL(LIBRARY).cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return None
    return None if failed else dotted(version.value)


def requirement(cuda: str | None) -> str:
    """The cuda-python for pip that fits a CUDA version: the newest that is not newer.

    A plain ``cuda-python`` would be that of CUDA 13, which no driver of JetPack 6 runs.
    """
    match = re.match(r"(\d+)\.(\d+)", cuda or "")
    if match is None:
        return "cuda-python"
    major, minor = int(match[1]), int(match[2])
    return f"cuda-python>={major}.0,<{major}.{minor + 1}"
