"""What a call takes of the machine: processor time and memory; on Linux."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Spent:
    """``seconds`` of processor time, of all threads, and the most memory that the process had meanwhile, in bytes."""

    seconds: float
    peak: int


def spent(call: Callable[[], T]) -> tuple[T, Spent]:
    """The result of ``call``, and what it took. The memory that the process has before counts as well."""
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far, see proc(5)
    start = time.process_time()
    result = call()
    return result, Spent(time.process_time() - start, peak_bytes())


def peak_bytes() -> int:
    """The most memory that this process had so far, on Linux. (`getrusage` also counts the process that started it.)"""
    (kib,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(kib)
