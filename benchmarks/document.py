"""What a benchmark writes with ``-o``: what ran and where, the table that it prints, and the samples behind it."""

import shlex
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from fold.files import write_json
from trt_bench import device
from trt_bench.errors import InputError

SCHEMA = 2
PACKAGES = ("torch", "numpy", "onnx", "onnxruntime", "onnxsim", "onnxslim")


def check_output(path: Path | None) -> None:
    """Raise InputError before anything is measured, where the document could not be written to ``path``."""
    if path and (path.suffix != ".json" or not path.parent.is_dir()):
        raise InputError(f"-o {path}: give a file that ends in .json, in a folder that is there")


def write(path: Path, benchmark: str, arguments: list[str] | None, table: Sequence[Sequence[str]], **samples) -> None:
    """Write the document of ``benchmark``, a module, to ``path``.

    ``arguments`` are those of the command, None for the ones of this process; ``table`` is a header and rows, as
    printed; ``samples`` is whatever JSON else belongs to them, times in ms.
    """
    given = sys.argv[1:] if arguments is None else arguments
    words = [word.replace(str(path), path.name) for word in given]
    document = {
        "schema": SCHEMA,
        "benchmark": benchmark,
        "command": shlex.join(["python", "-m", benchmark, *words]),
        "device": device.describe(),
        "versions": {package: metadata.version(package) for package in PACKAGES},
        "table": [list(row) for row in table],
        **samples,
    }
    write_json(path, document)
