"""segments.json: which ONNX file of a folder is which segment of a network.

`python -m export segments` writes it, last of all files of the folder. `python -m trt_bench table` times what it lists.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from . import records
from .files import write_json
from .records import Size

SCHEMA = 1
_NAME = "segments.json"


@dataclass(frozen=True)
class SegmentFile:
    """The name of an ONNX file, ``input_shape`` without the batch, and the ``names`` of the segments that it is."""

    file: str
    input_shape: tuple[Size, ...]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if Path(self.file).name != self.file:
            raise ValueError(f"file is {self.file!r}, not the name of a file in the folder")


@dataclass(frozen=True)
class SegmentIndex:
    """The ``segments`` of a folder, of ONNX ``opset``, for a fixed ``batch`` or for any (None)."""

    opset: Size
    batch: Size | None
    segments: tuple[SegmentFile, ...]

    def __post_init__(self) -> None:
        names = Counter(name for segment in self.segments for name in segment.names)
        if not names:
            raise ValueError("it has no segments")
        (name, count), *_ = names.most_common(1)
        if count > 1:
            raise ValueError(f"it has segment {name} twice")


def index_path(folder: str | Path) -> Path:
    """Where the index of a folder of segments stands."""
    return Path(folder) / _NAME


def write_index(folder: str | Path, index: SegmentIndex) -> None:
    """Write segments.json into ``folder``."""
    write_json(index_path(folder), records.encode(index, SCHEMA))


def read_index(folder: str | Path) -> SegmentIndex:
    """Read the segments.json of ``folder``. Raises InputError where it is missing, damaged, or has a name twice."""
    remedy = "export the segments again, with `layer-folding segments`"
    return records.read(index_path(folder), SegmentIndex, SCHEMA, remedy)
