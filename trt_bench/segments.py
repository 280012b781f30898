"""The segments that the export wrote for a latency table: a folder of ONNX files and segments.json."""

import hashlib
import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from trt_bench.errors import InputError

SCHEMA = 1
_FROM_START = re.compile(r"apart 0,(\d+)$")


@dataclass(frozen=True)
class Segment:
    """One network to time, and all the names that it stands for."""

    path: Path
    digest: str  # of its content
    names: tuple[str, ...]  # "st,end": one merged layer for the layers st+1 to end; or any other text


def load(folder: str | Path) -> list[Segment]:
    """The segments of ``folder``, files of the same content once. Raises InputError where the export wrote no such."""
    index = Path(folder) / "segments.json"
    merged: dict[str, tuple[Path, list[str]]] = {}
    for path, names in _entries(index):
        if not path.is_file():
            raise InputError(f"{path}: no such file, though {index} names it; export the segments again")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        merged.setdefault(digest, (path, []))[1].extend(names)
    _unique(index, [name for _, names in merged.values() for name in names])
    return [Segment(path, digest, tuple(names)) for digest, (path, names) in merged.items()]


def whole(found: list[Segment], folder: str | Path) -> Segment:
    """The one of ``found`` that is the whole network: "apart 0,N" with the largest N. Raises InputError without one."""
    ends = {int(match[1]): segment for segment in found for name in segment.names if (match := _FROM_START.match(name))}
    if not ends:
        raise InputError(f"{folder}: has no segment of the whole network, apart 0,N; export the segments again")
    return ends[max(ends)]


def files(folder: str | Path, names: Collection[str]) -> dict[str, Path]:
    """The files of those of ``names`` that ``folder`` has. Raises InputError as `load` for a damaged segments.json."""
    index = Path(folder) / "segments.json"
    entries = _entries(index) if index.exists() else []
    return {name: path for path, known in entries for name in known if name in names and path.is_file()}


def _entries(index: Path) -> list[tuple[Path, list[str]]]:
    """The files that a segments.json lists, each with the names that it stands for."""
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{index}: no such file; `python -m export` writes segments") from error
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(f"{index}: cannot be read as JSON ({error}); export the segments again") from error
    try:
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema is {content['schema']!r}")
        entries = [
            (index.parent / _file(entry["file"]), [str(name) for name in entry["names"]])
            for entry in content["segments"]
        ]
        if not entries:
            raise ValueError("no segments")
    except (KeyError, TypeError, ValueError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{index}: no segments.json of schema {SCHEMA}: {what}; export the segments again") from error
    return entries


def span(name: str) -> tuple[int, int] | None:
    """(st, end) of a name such as "3,7"; None for another text."""
    match = re.fullmatch(r"(\d+),(\d+)", name)
    return (int(match[1]), int(match[2])) if match else None


def _file(name: object) -> str:
    if not isinstance(name, str) or Path(name).name != name:  # nothing outside the folder
        raise ValueError(f"file is {name!r}")
    return name


def _unique(index: Path, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{index}: has segment {name} twice; export the segments again")
