"""What every command of the toolchain does the same way: arguments, exit codes, one-line errors."""

import argparse
import contextlib
import errno
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import NoReturn

from fold.errors import CheckError, InputError


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, and whose epilog keeps its lines; subcommands inherit both."""

    def __init__(self, *args: object, **options: object):
        super().__init__(*args, formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        """Raise InputError with ``message`` and where the help is."""
        raise InputError(f"{message}; see {self.prog} --help")


def run(main: Callable[[], None]) -> int:
    """Call ``main`` and return its exit code: 0 done, 1 ran and failed a check, 2 bad input, 130 interrupted."""
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
        return _fail("interrupted; the same command goes on from the last finished step", 130)
    except BrokenPipeError:  # the reader of our stdout has gone; there is nobody to tell
        _settle_output()
        return 1
    except OSError as error:
        _settle_output()
        if error.errno == errno.ENOSPC:
            return _fail(f"{error.filename or 'output'}: no space left on the device; free some and run it again", 2)
        if error.filename is None:
            raise
        return _fail(f"{error.filename}: {error.strerror}; give a file that can be used", 2)
    return 0


def positive(text: str) -> float:
    """The type of an argument that is a number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


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


def _fail(message: object, code: int) -> int:
    text = " ".join(str(message).split())
    print(f"error: {text}", file=sys.stderr)
    return code


def _settle_output() -> None:
    """Write what stdout still holds; throw away what cannot be written, or Python would try again at exit and fail."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
