"""Ctrl-C while TensorRT is at work: parses, builds, loads an engine, compiles its kernels, or profiles it.

TensorRT's bindings swallow what a callback raises, be it the logger, the monitor or the profiler. So a Ctrl-C must not
raise while TensorRT is at work: it is noted, a build is asked to stop, and KeyboardInterrupt is raised when TensorRT
has come back.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def deferred(show: Callable[[str], None]) -> Iterator[Callable[[], bool]]:
    """Within the block, Ctrl-C is noted and ``show``n; at its end, KeyboardInterrupt is raised where there was one.

    The block gets the function that tells whether there was one. Any thread may call the function: the signal is
    written into a pipe at once, while Python's handler waits until the main thread is back from TensorRT. A second
    Ctrl-C ends the process.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield lambda: False  # Ctrl-C is not ours to handle
        return
    noted = threading.Event()
    reading, writing = os.pipe()
    for end in (reading, writing):
        os.set_blocking(end, False)

    def wanted() -> bool:
        with contextlib.suppress(BlockingIOError):
            if not noted.is_set() and signal.SIGINT in os.read(reading, 512):
                noted.set()
        return noted.is_set()

    def handler(number: int, frame: object) -> None:
        noted.set()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        show("interrupted; TensorRT stops at its next step, or press Ctrl-C again")

    before = signal.signal(signal.SIGINT, handler)
    pipe_before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield wanted
    finally:
        signal.set_wakeup_fd(pipe_before)
        signal.signal(signal.SIGINT, before)
        interrupted = wanted()
        os.close(reading)
        os.close(writing)
        if interrupted:
            raise KeyboardInterrupt
