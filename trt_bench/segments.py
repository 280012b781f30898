"""The segments that a latency table is measured from: the ONNX files of a folder, each content once."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from layer_folding.errors import InputError
from layer_folding.segment_index import index_path, read_index
from layer_folding.segment_names import whole_network


@dataclass(frozen=True)
class SegmentNetwork:
    """One network to time: its ONNX file, the ``digest`` of that, and the ``names`` of all segments that it is."""

    path: Path
    digest: str
    names: tuple[str, ...]


def load(folder: str | Path) -> list[SegmentNetwork]:
    """The segments of ``folder``, files of the same content once. Raises InputError where the export wrote no such."""
    found: dict[str, SegmentNetwork] = {}
    for segment in read_index(folder).segments:
        path = Path(folder) / segment.file
        if not path.is_file():
            raise InputError(f"{path}: no such file, though {index_path(folder)} names it; export the segments again")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        known = found.get(digest, SegmentNetwork(path, digest, ()))
        found[digest] = replace(known, names=(*known.names, *segment.names))
    return list(found.values())


def whole(found: Sequence[SegmentNetwork], folder: str | Path) -> SegmentNetwork:
    """The one of ``found``, the segments of ``folder``, that is the whole network. Raises InputError without one."""
    name = whole_network(name for segment in found for name in segment.names)
    if name is None:
        raise InputError(f"{folder}: has no segment of the whole network, apart 0,N; export the segments again")
    return next(segment for segment in found if name in segment.names)


def files(folder: str | Path, names: Collection[str]) -> dict[str, Path]:
    """The files of those of ``names`` that ``folder`` has; none where it has no segments.json. Raises InputError as
    `load` for a damaged segments.json."""
    segments = read_index(folder).segments if index_path(folder).exists() else ()
    paths = {name: Path(folder) / segment.file for segment in segments for name in segment.names if name in names}
    return {name: path for name, path in paths.items() if path.is_file()}
