"""Engines and timing caches kept between runs: files that only their owner can read or replace.

Deserialising a plan runs code that is in it, so only plans from this folder are, and the folder and each file in it
must belong to the user and be closed to others. Files are written whole or not at all.
"""

import contextlib
import os
import stat
from pathlib import Path

from layer_folding import files
from layer_folding.errors import InputError


def default_folder() -> Path:
    """Where engines are kept if the user names no folder: the user's cache folder (XDG base directories)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "layer-folding" / "engines"


class Cache:
    """A folder of engines. Raises InputError where it cannot be made, or where others can write to it."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            probe = self.folder / f".probe-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise InputError(f"--cache {folder}: cannot be used ({error.strerror}); name a folder of yours") from error
        if not _private(self.folder.resolve(), 0o022):
            raise InputError(f"--cache {folder}: others can write to it; chmod 700 it, or name a folder of yours")

    def load(self, name: str) -> bytes | None:
        """The content kept under ``name``; None if there is none, or one that is damaged or not the owner's alone."""
        path = self.folder / name
        try:
            if not _private(path, 0o077):
                return None
            return files.read_checked(path)
        except OSError:
            return None

    def store(self, name: str, content: bytes) -> None:
        """Keep ``content`` under ``name``, with a checksum in front. Raises OSError, and then leaves nothing behind."""
        files.write_checked(self.folder / name, content, mode=0o600)

    def remove(self, name: str) -> None:
        """Forget what is kept under ``name``."""
        with contextlib.suppress(FileNotFoundError):
            (self.folder / name).unlink()


def _private(path: Path, closed: int) -> bool:
    """Whether ``path`` is no link, belongs to this user, and denies others the permissions ``closed``."""
    status = path.lstat()
    return not stat.S_ISLNK(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & closed
