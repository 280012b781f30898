"""What every command of the toolchain does the same way: arguments, progress, exit codes, one-line errors.

How a subcommand is declared, ``subcommands.py`` says.
"""

import argparse
import contextlib
import errno
import io
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from .errors import CheckError, InputError

TRACEBACK = "LAYER_FOLDING_TRACEBACK"  # the environment variable that shows the traceback of a bug
_LONGEST_REASON = 200  # characters
EXIT_CODES = "Exit codes: 0 done, 1 ran and failed a check, 2 bad input, 130 interrupted."


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, and whose epilog keeps its lines; subcommands inherit both."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **{"formatter_class": argparse.RawDescriptionHelpFormatter, **options})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As in argparse; raise InputError for a word with a NUL, which no path has and no system call takes."""
        for word in sys.argv[1:] if args is None else args:
            if "\0" in word:
                self.error(f"{word!a}: has a NUL character; leave it out")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Raise InputError with ``message`` and where the help is."""
        raise InputError(f"{message}; see {self.prog} --help")


def run(main: Callable[[], None]) -> int:
    """Call ``main`` and return its exit code: 0 done, 1 ran and failed a check, 2 bad input, 130 interrupted.

    Whatever goes wrong is one line on stderr. A traceback appears only where the variable TRACEBACK is set, for what is
    a bug.
    """
    _prepare_output()
    with _interrupted_once():
        return _run(main)


def _run(main: Callable[[], None]) -> int:
    try:
        main()
        sys.stdout.flush()
    except CheckError as error:
        return _fail(error, 1)
    except InputError as error:
        return _fail(error, 2)
    except KeyboardInterrupt:
        return _fail("interrupted; give the same command again: what was finished is kept", 130)
    except BrokenPipeError:  # the reader of our stdout has gone; there is nobody to tell
        _settle_output()
        return 1
    except Exception as error:
        _settle_output()
        if _is_out_of_memory(error):
            what = " ".join(str(error).split())[:_LONGEST_REASON]
            return _fail(f"out of memory ({what}); give a smaller --batch or --size, or close other programs", 2)
        if isinstance(error, OSError) and (error.filename is not None or error.errno == errno.ENOSPC):
            remedy = "free some space" if error.errno == errno.ENOSPC else "give a file that can be used"
            return _fail(f"{error.filename or 'output'}: {error.strerror or error}; {remedy} and run it again", 2)
        if os.environ.get(TRACEBACK):
            raise
        where = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__} in {Path(where.filename).name}:{where.lineno} ({str(error)[:_LONGEST_REASON]})"
        return _fail(f"{what}; this is a bug: please report it, with the traceback that {TRACEBACK}=1 shows", 1)
    return 0


def progress(text: str) -> None:
    """Show ``text`` on the current line of stderr where that is a terminal; the empty text clears the line."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def labelled(show: Callable[[str], None], label: str) -> Callable[[str], None]:
    """``show`` with ``label`` before each text; the empty text stays empty."""
    return lambda text: show(text and f"{label}: {text}")


@contextlib.contextmanager
def _interrupted_once() -> Iterator[None]:
    """Within the block, the first Ctrl-C raises KeyboardInterrupt; further ones do not disturb what then cleans up."""

    def interrupt(number: int, frame: object) -> NoReturn:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:  # as in a background job of a shell
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error).lower()  # PyTorch and ONNX Runtime have no exception of their own for the memory of a CPU
    return isinstance(error, MemoryError) or "out of memory" in text or re.search("allocate .*memory", text) is not None


def _prepare_output() -> None:
    """Give a stream that the caller has closed somewhere to go, and let stdout take names that its encoding lacks."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, it is open to the end
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _fail(message: object, code: int) -> int:
    progress("")
    text = " ".join(str(message).split())
    print(f"error: {text}", file=sys.stderr)
    return code


def _settle_output() -> None:
    """Write what stdout still holds; throw away what cannot be written, or Python would try again at exit and fail."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
