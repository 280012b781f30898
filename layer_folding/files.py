"""Files that are either whole or absent: temporary file, fsync, rename."""

import contextlib
import errno
import hashlib
import json
import os
import platform
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .errors import CheckError

_DIGEST_BYTES = 32
_TEMPORARY = ".layer-folding-"  # then the machine, the process and something random
# Errors that concern the place of a file: the user knows the place by the name of the result.
_OF_THE_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)


@contextlib.contextmanager
def atomic_path(path: str | Path, mode: int = 0o666) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` when the block succeeds, remove it otherwise.

    A reader therefore sees the old file or the new one, never a half of it, even after ``kill -9`` or a full disk.
    The temporary file keeps the suffix of ``path``, for writers that look at it. ``mode`` is masked as with open().
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix = f"{_TEMPORARY}{_host()}-{os.getpid()}-"
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=f".tmp{path.suffix}")
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(mode & ~umask)  # mkstemp is owner-only; a result should be as readable as any other file
        os.replace(temporary, path)
    except OSError as error:
        if error.errno in _OF_THE_PLACE:
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error  # not the temporary's name
        raise
    finally:
        if temporary:
            temporary.unlink(missing_ok=True)


def remove_leftovers(folder: str | Path) -> None:
    """Remove the temporary files of processes of this machine that were killed before `atomic_path` could do so."""
    for path in Path(folder).glob(f"{_TEMPORARY}*"):
        found = re.fullmatch(rf"{re.escape(_TEMPORARY + _host())}-(\d+)-[a-z0-9_]+\.tmp(\.[^.]*)?", path.name)
        if found and not _is_running(int(found[1])):
            path.unlink(missing_ok=True)


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9]", "", platform.node())  # folders may be shared, and process numbers are of one machine


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # of another user; no number of a process
        return True
    return True


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_checked(path: str | Path, content: bytes, mode: int = 0o666) -> None:
    """Write ``content`` to ``path`` atomically, with a checksum in front, which `read_checked` looks at."""
    with atomic_path(path, mode) as temporary:
        temporary.write_bytes(hashlib.sha256(content).digest() + content)


def read_checked(path: str | Path) -> bytes | None:
    """What `write_checked` wrote to ``path``; None where the file is not as it was written. Raises OSError."""
    digest, content = (whole := Path(path).read_bytes())[:_DIGEST_BYTES], whole[_DIGEST_BYTES:]
    return content if hashlib.sha256(content).digest() == digest else None


def write_json(path: str | Path, value: object) -> None:
    """Write ``value`` to ``path`` atomically, as indented JSON. Raises CheckError where a number is NaN or infinite."""
    try:
        text = json.dumps(value, indent=2, allow_nan=False)
    except ValueError as error:
        raise CheckError(f"{path}: not written, a result in it is NaN or infinite") from error
    write_text(path, text + "\n")
