"""The sheets of a run folder and of the small files in it: settings, epochs, images, segments."""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from layer_folding import epoch_records, records, run_config, segment_index
from layer_folding.errors import InputError
from layer_folding.evalset import read_evalset

from .sheets import Sheet, size

_MARKS = ("config.json", "fold.json", "bench.json", "original.safetensors", "original.onnx")


def run_folder(folder: Path, show: Callable[[Path], Sheet]) -> Sheet:
    """The sheet of a folder: a row for each file in it, with what ``show`` says of the file.

    A file that cannot be read has the reason in its row. Raises InputError for a folder that is no run folder.
    """
    if not any((folder / name).exists() for name in _MARKS):
        raise InputError(f"{folder}: no run folder; give a file, or a folder that `layer-folding pretrain` has made")
    rows = [_row(path, show) for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    config = run_config.read(folder)
    facts = {"stages": ", ".join(config.stages)} if config and config.stages else {}
    record = [{"file": name, "kind": kind, "summary": summary} for name, kind, summary in rows]
    return Sheet(
        str(folder),
        "run folder",
        f"{len(rows)} files",
        facts,
        ("name", "kind", "summary"),
        rows,
        {"stages": list(config.stages) if config else [], "files": record},
        text="\n".join([f"{folder}: run folder", *(f"  {k}  {v}" for k, v in facts.items()), "", *_columns(rows)]),
    )


_KINDS = {".html": "page", ".png": "picture", ".svg": "picture", ".txt": "text"}  # of files for people


def _row(path: Path, show: Callable[[Path], Sheet]) -> tuple[str, str, str]:
    if path.is_dir():
        return path.name, "folder", f"{sum(1 for _ in path.iterdir())} files"
    if path.suffix not in (".safetensors", ".onnx", ".json", ".csv", ".npz"):
        return path.name, _KINDS.get(path.suffix, "other"), ""
    try:
        sheet = show(path)
    except InputError as error:
        return path.name, "cannot be read", str(error).removeprefix(f"{path}: ")
    return path.name, sheet.kind, sheet.summary


def _columns(rows: list[tuple[str, str, str]]) -> list[str]:
    widths = [max(len(row[place]) for row in rows) for place in (0, 1)]
    return [f"{name:{widths[0]}}  {kind:{widths[1]}}  {summary}".rstrip() for name, kind, summary in rows]


def config(path: Path) -> Sheet:
    """The sheet of a config.json: a row for each setting of each stage."""
    known = run_config.read(path.parent) if path.name == run_config.NAME else None
    if known is None:
        raise InputError(
            f"{path}: settings of a run stand in a file named {run_config.NAME}; give the run folder's own"
        )
    rows = [(stage, name, _plain(value)) for stage, ran in known.stages.items() for name, value in ran.settings.items()]
    return Sheet(
        str(path),
        "settings",
        ", ".join(known.stages),
        {stage: _versions(ran.versions, ran.revision) for stage, ran in known.stages.items()},
        ("stage", "setting", "value"),
        rows,
        records.as_json(known),
    )


def _versions(versions: Mapping[str, str | None], revision: str | None) -> str:
    known = [f"{name} {version}" for name, version in versions.items() if version]
    return ", ".join([*known, *([f"revision {revision[:12]}"] if revision else [])])


def _plain(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def metrics(path: Path) -> Sheet:
    """The sheet of a metrics.csv: a row for each epoch."""
    known = epoch_records.read(path)
    last = known.epochs[-1] if known.epochs else None
    rows = [
        (each.stage, each.epoch, each.loss, each.task, each.accuracy, each.penalty, each.depth, each.seconds)
        for each in known.epochs
    ]
    return Sheet(
        str(path),
        "epochs",
        f"{len(rows)} epochs{f', the last with an accuracy of {last.accuracy:.2%}' if last else ''}",
        {
            "epochs": str(len(rows)),
            **({"cut off": "the last row lacks its end, and is left out"} if known.cut_off else {}),
        },
        epoch_records.COLUMNS,
        rows,
        records.as_json(known.epochs),
    )


def images(path: Path) -> Sheet:
    """The sheet of an eval.npz or calib.npz: a row for each class, where the images have labels."""
    data = read_evalset(path)
    counts = dict(sorted(Counter([] if data.labels is None else data.labels.tolist()).items()))
    shape = data.images.shape[1:]
    return Sheet(
        str(path),
        "images",
        f"{len(data.images)} of {size(shape)} {f'in {len(counts)} classes' if counts else 'without labels'}",
        {"images": f"{len(data.images)} of {size(shape)}, 8 bits", "classes": str(len(counts) or "no labels")},
        ("label", "images"),
        list(counts.items()),
        {
            "images": len(data.images),
            "shape": list(shape),
            "mean": data.mean.tolist(),
            "std": data.std.tolist(),
            "labels": {str(label): count for label, count in counts.items()},
        },
    )


def segments(path: Path) -> Sheet:
    """The sheet of a segments.json: a row for each ONNX file."""
    index = segment_index.read_index(path.parent)
    return Sheet(
        str(path),
        "list of segments",
        f"{len(index.segments)} ONNX files, opset {index.opset}",
        {"opset": str(index.opset), "batch": "any" if index.batch is None else str(index.batch)},
        ("onnx", "input", "segments"),
        [(each.file, each.input_shape, each.names) for each in index.segments],
        records.as_json(index),
    )
