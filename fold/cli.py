"""What every command of the toolchain does the same way: exit codes, one-line errors."""

import errno
import sys
from collections.abc import Callable

from fold.errors import CheckError, InputError


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
        return _fail("interrupted; the same command goes on from the last finished step", 130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our stdout has gone; there is nobody to tell
        return 1
    except OSError as error:
        # safetensors and onnx report a full disk through OSError too, some without an errno
        if error.errno == errno.ENOSPC or "No space left" in str(error):
            return _fail(f"{error.filename or 'output'}: no space left on the device; free some and run it again", 2)
        if error.filename is None:
            raise
        return _fail(f"{error.filename}: {error.strerror}", 2)
    return 0


def _fail(message: object, code: int) -> int:
    text = " ".join(str(message).split())
    print(f"error: {text}", file=sys.stderr)
    return code
