"""Where a command may write: in a folder that takes files, and over nothing but an older result of its own kind."""

import os
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .errors import InputError


@dataclass(frozen=True)
class Kind:
    """A kind of result: how its files are called, how they end, and how each of them begins (a regular expression)."""

    name: str
    suffix: str
    begins: bytes = b""


LATENCY_TABLE = Kind("latency table", ".csv", rb"st,end,time")
IMPORTANCE_TABLE = Kind("table of importances", ".csv", rb"activations,")
SENSITIVITIES = Kind("table of sensitivities", ".csv", rb"layer,alone")
SPLITS = Kind("table of splits", ".csv", rb"id,st,end,time")
BENCH = Kind("bench.json", ".json", rb'\{\s*"schema": \d+,\s*"runtime"')
PLAN = Kind("plan.json", ".json", rb'\{\s*"schema": \d+,\s*"conditions"')
PAGE = Kind("page of layer-folding", ".html", rb"(?is)<!doctype html>.*<title>[^<]* \xc2\xb7 layer-folding</title>")
PICTURE = Kind("picture of layer-folding", ".png", rb"(?s)\x89PNG.*tEXtSoftware\x00Matplotlib")
NETWORK = Kind("ONNX network", ".onnx")
ENGINE = Kind("engine", ".engine")
_LONGEST_BEGIN = 1000  # bytes


def output_file(option: str, path: str | Path, kind: Kind, inputs: Iterable[str | Path] = ()) -> Path:
    """``path`` as the name of a result of ``kind``; nothing is written yet.

    Raises InputError, which names the ``option``, before any work is done: for another suffix, a folder, one of
    ``inputs``, a file that is there and of another kind, and a place that takes no files.
    """
    path = Path(path)
    if path.suffix != kind.suffix or path.is_dir():  # -o original.onnx would destroy the network
        raise InputError(f"{option} {path}: is no name for a {kind.name}; give a file that ends in {kind.suffix}")
    if any(_is_same(path, each) for each in inputs):
        raise InputError(f"{option} {path}: is what the command reads; give another name")
    try:
        if path.exists() and not _begins(path, kind):
            raise InputError(f"{option} {path}: is there and is no {kind.name}; give another name, or remove the file")
    except OSError as error:
        raise InputError(f"{option} {path}: cannot be read ({error.strerror}); give another name") from error
    output_folder(option, path.absolute().parent, path)
    return path


def output_folder(option: str, folder: str | Path, shown: str | Path | None = None) -> Path:
    """``folder``, there or not yet, as a place for results. Raises InputError, which names ``option`` and ``shown``
    (``folder``), where files cannot be written."""
    folder, shown = Path(folder), folder if shown is None else shown
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(place))
    if not there.is_dir():
        raise InputError(f"{option} {shown}: {there} is no folder; give another name")
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise InputError(
            f"{option} {shown}: cannot be written ({error.strerror}); name a folder that is yours"
        ) from error
    return folder


def _is_same(path: Path, other: str | Path) -> bool:
    return path.exists() and os.path.exists(other) and os.path.samefile(path, other)


def _begins(path: Path, kind: Kind) -> bool:
    """Whether the file ``path`` is of ``kind``; an empty file is of every kind."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        begin = file.read(_LONGEST_BEGIN)
    return not begin or re.match(kind.begins, begin) is not None
