"""Exit codes, one-line errors and the argument parser of the command line."""

import argparse
import errno
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from trt_bench.errors import CheckError, InputError


def run(main: Callable[[], None]) -> int:
    """Call ``main`` and return its exit code: 0 done, 1 ran and failed a check, 2 bad input, 130 interrupted."""
    try:
        main()
        sys.stdout.flush()
    except CheckError as error:
        return _fail(error, 1)
    except InputError as error:
        return _fail(error, 2)
    except KeyboardInterrupt:
        return _fail("interrupted; start the same command again", 130)
    except MemoryError as error:
        return _fail(f"out of memory ({error}); give a smaller --batch", 2)
    except BrokenPipeError:  # the reader of our stdout has gone; there is nobody to tell
        _settle_output()
        return 1
    except OSError as error:
        _settle_output()
        remedy = "free some space" if error.errno == errno.ENOSPC else "give a file that can be used"
        return _fail(f"{error.filename or 'output'}: {error.strerror or error}; {remedy} and run it again", 2)
    return 0


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


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line as well; subcommands inherit it."""

    def error(self, message: str) -> NoReturn:
        """Raise InputError with ``message`` and where the help is."""
        raise InputError(f"{message}; see {self.prog} --help")


def progress(text: str) -> None:
    """Show ``text`` on the current line of stderr where that is a terminal; the empty text clears the line."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
