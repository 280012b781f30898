"""In processes of their own: what glibc is told holds until the process ends."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from train.memory import keep_freed
if {keep}:
    keep_freed()
for counted in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(20_000_000)  # 80 MB, freed at once
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep: bool) -> int:
    """Pages that the system had to hand out for tensors of a size that was freed before."""
    command = [sys.executable, "-c", FAULTS.format(keep=keep)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
@pytest.mark.slow
def test_freed_memory_is_used_again():
    assert faults(keep=True) < 0.01 * faults(keep=False)
