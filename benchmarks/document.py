"""What a benchmark writes with ``-o``: what ran and where, the table that it prints, and the samples behind it."""

import contextlib
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from layer_folding import records
from layer_folding.device_records import DeviceRecord
from layer_folding.errors import InputError
from layer_folding.files import write_json
from layer_folding.trt_bench import device, nvml

SCHEMA = 2
PACKAGES = ("torch", "numpy", "onnx", "onnxruntime", "onnxsim", "onnxslim")


@dataclass(frozen=True)
class Gpu:
    """A GPU that PyTorch ran on, the version of CUDA, and what NVML tells."""

    name: str
    cuda: str | None
    limits: nvml.Limits


def gpu() -> Gpu | None:
    """The GPU of this machine, None where PyTorch finds none."""
    import torch  # here, since the page of results needs documents alone

    return Gpu(torch.cuda.get_device_name(), torch.version.cuda, nvml.describe()) if torch.cuda.is_available() else None


def processor() -> str:
    """The name of the GPU, or of the CPU where there is none."""
    found = gpu()
    return found.name if found else device.host().cpu or "CPU"


@dataclass(frozen=True)
class Document:
    """What the page of results shows of a benchmark: its ``table`` is a header and rows, as printed."""

    benchmark: str
    command: str
    device: DeviceRecord
    versions: dict[str, str]
    table: tuple[tuple[str, ...], ...]
    gpu: Gpu | None = None

    def __post_init__(self) -> None:
        if not self.table or {len(row) for row in self.table} != {len(self.table[0])}:
            raise ValueError("table is not a header and rows as long as the header")


def read(path: Path) -> Document:
    """The document at ``path``, without its samples. Raises InputError for another file."""
    return records.read(path, Document, SCHEMA, "measure again, or give a file that a benchmark wrote")


def save(path: Path, document: Document, **samples: object) -> None:
    """Write ``document`` to ``path``, with ``samples``: whatever JSON else belongs to it."""
    write_json(path, {**records.encode(document, SCHEMA), **samples})


def check_output(path: Path | None) -> None:
    """Raise InputError before anything is measured, where the document could not be written to ``path``."""
    if path and (path.suffix != ".json" or not path.parent.is_dir()):
        raise InputError(f"-o {path}: give a file that ends in .json, in a folder that is there")


def write(
    path: Path,
    benchmark: str,
    arguments: list[str] | None,
    table: Sequence[Sequence[str]],
    gpu: Gpu | None = None,
    **samples: object,
) -> None:
    """Write the document of ``benchmark``, a module, to ``path``.

    ``arguments`` are those of the command, None for the ones of this process; ``samples`` are JSON values or records,
    times in ms.
    """
    given = sys.argv[1:] if arguments is None else arguments
    words = [_without_folder(word.replace(str(path), path.name)) for word in given]
    document = Document(
        benchmark=benchmark,
        command=shlex.join(["python", "-m", benchmark, *words]),
        device=device.host(),
        versions=versions(),
        table=tuple(map(tuple, table)),
        gpu=gpu,
    )
    save(path, document, **records.as_json(samples))


def _without_folder(word: str) -> str:
    """``word`` of a command, with the last part alone of a path out of this folder: the others are of one machine."""
    option, equals, value = word.rpartition("=")
    path = Path(value)
    return f"{option}{equals}{path.name}" if path.is_absolute() or ".." in path.parts else word


def versions() -> dict[str, str]:
    """Of the `PACKAGES` that are installed."""
    found = {}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found
