"""Engines as files of their own: the cache has them with a checksum in front, which other programs cannot read."""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

from layer_folding.bench_results import EngineRecord
from layer_folding.errors import InputError
from layer_folding.files import atomic_path, read_checked
from layer_folding.outputs import ENGINE, output_file

Order = tuple[str, str | None]  # an ONNX file, and a compute capability such as 8.6 (None: that of the GPU here)


def names(folder: str, onnx: Sequence[str], capabilities: Sequence[str]) -> Mapping[Order, Path]:
    """The file in ``folder`` for the engine of each ONNX file and each capability; nothing is written yet.

    Raises InputError where two of them have one name, and where ``folder`` takes no files.
    """
    found: dict[Order, Path] = {}
    targets: list[str | None] = [*capabilities] or [None]
    for path, capability in product(dict.fromkeys(onnx), targets):
        target = "" if capability is None else f"-sm{capability.replace('.', '')}"
        name = output_file("-o", Path(folder) / f"{Path(path).stem}{target}{ENGINE.suffix}", ENGINE)
        if name in found.values():
            raise InputError(f"-o {folder}: two of the ONNX files are called {Path(path).name}; build one at a time")
        found[path, capability] = name
    return found


def write(built: EngineRecord, path: Path) -> Path:
    """Copy an engine from the cache to ``path``, which is returned. Raises InputError where it is damaged there."""
    content = read_checked(built.engine)
    if content is None:
        raise InputError(f"{built.engine}: was damaged after it was built; build it again")
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return path
