"""What holds for every test: it draws the same, whatever ran before it; `make fuzz` draws anew."""

import os
import random
import signal
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import settings

FRESH = "FUZZ_EXAMPLES" in os.environ
settings.register_profile("same", derandomize=True, deadline=None)  # a busy machine is slow at any time
settings.register_profile("fresh", derandomize=False, deadline=None)
settings.load_profile("fresh" if FRESH else "same")


def pytest_configure() -> None:
    # A shell's background jobs ignore Ctrl-C, and so would every command that a test starts and interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [each for category in ("passed", "failed") for each in terminalreporter.stats.get(category, [])]
    built = sum(name == "engine" for report in reports for name, _ in report.user_properties)
    if built:
        terminalreporter.write_line(f"{built} engines built by NVIDIA's own parser and builder (TensorRT-RTX)")


@pytest.hookimpl(trylast=True)  # what -m leaves
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first, so that no core waits for the last file while the others are done."""
    longest: dict[Path, tuple[float, int]] = defaultdict(lambda: (0.0, 0))
    for item in items:
        limit = item.get_closest_marker("timeout")
        seconds, slow = longest[item.path]
        own = float(limit.args[0]) if limit else 0.0
        longest[item.path] = max(seconds, own), slow + (item.get_closest_marker("slow") is not None)
    items.sort(key=lambda item: longest[item.path], reverse=True)


def pytest_runtest_setup() -> None:
    random.seed(0)
    if "numpy" in sys.modules:  # else nothing draws from it
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
