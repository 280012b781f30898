"""Which kind a file is of, decided by what stands in it, and the sheet of the file."""

from collections.abc import Callable
from pathlib import Path

from layer_folding import records
from layer_folding.errors import InputError

from ..protobuf import fields
from . import checkpoint_sheet, onnx_sheet, result_sheets, run_sheets, table_sheets
from .sheets import Sheet

Show = Callable[[Path], Sheet]
_GRAPH = 7  # of ModelProto
_KINDS = "a checkpoint, an ONNX file, a latency table, a plan, importances, a bench.json, a fold.json or a run folder"
# What an object of each kind has, and no object of another kind.
_BY_KEYS: tuple[tuple[frozenset[str], Show], ...] = (
    (frozenset({"models", "runtime"}), result_sheets.bench),
    (frozenset({"merges", "original_ms"}), result_sheets.plan),
    (frozenset({"folded", "skipped"}), result_sheets.folded),
    (frozenset({"segments", "settings"}), result_sheets.latency_record),
    (frozenset({"segments", "opset"}), run_sheets.segments),
    (frozenset({"stages"}), run_sheets.config),
)
_BY_COLUMNS: tuple[tuple[frozenset[str], Show], ...] = (
    (frozenset({"st", "end", "time", "breaks"}), table_sheets.splits),
    (frozenset({"st", "end", "time"}), result_sheets.latency_table),
    (frozenset({"activations"}), result_sheets.importance),
    (frozenset({"stage", "epoch"}), run_sheets.metrics),
    (frozenset({"lambda", "depth"}), table_sheets.sweep),
    (frozenset({"asked", "planned"}), table_sheets.sweep),
    (frozenset({"layer", "alone", "others"}), table_sheets.sensitivity),
)


def show_file(path: str | Path) -> Sheet:
    """What the file or run folder ``path`` holds. Raises InputError for a file that is missing, damaged or not ours."""
    path = Path(path)
    if path.is_dir():
        return run_sheets.run_folder(path, show_file)
    if not path.exists():
        raise InputError(f"{path}: no such file; give {_KINDS}")
    if not path.is_file():  # reading a pipe would wait for its other end
        raise InputError(f"{path}: cannot be read, it is no file; give {_KINDS}")
    return _reader(path)(path)


def _reader(path: Path) -> Show:
    with open(path, "rb") as file:
        begin = file.read(4096)
    if begin[4:9] == b"\0\0\0\0{":  # eight bytes with the length of the header, below 4 GiB, and the header
        return checkpoint_sheet.checkpoint
    if begin.startswith(b"PK\3\4"):
        return run_sheets.images
    if begin.lstrip().startswith(b"{"):
        return _of_json(path)
    columns = frozenset(begin.partition(b"\n")[0].strip().decode(errors="replace").split(","))
    for wanted, show in _BY_COLUMNS:
        if wanted <= columns:
            return show
    if _has_graph(path):
        return onnx_sheet.network
    raise InputError(f"{path}: is of no kind that layer-folding writes, or damaged at its beginning; give {_KINDS}")


def _of_json(path: Path) -> Show:
    try:
        content = records.parse_json(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: damaged: {error}; make the file again with the command that wrote it") from error
    for wanted, show in _BY_KEYS:
        if isinstance(content, dict) and wanted <= content.keys():
            return show
    raise InputError(f"{path}: is a JSON file of no kind that layer-folding writes; give {_KINDS}")


def _has_graph(path: Path) -> bool:
    try:
        return any(number == _GRAPH for number, _ in fields(memoryview(path.read_bytes())))
    except (IndexError, KeyError, ValueError):
        return False
