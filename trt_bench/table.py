"""The latency table that `python -m fold plan` plans with: every segment timed once, however often interrupted.

``latency.csv`` has a row ``st,end,time,stdev`` (ms) for each segment that is named by its layers. ``latency.json``
beside it has every segment with its samples, and the device and settings; it grows as segments are timed, and a run
that finds one goes on behind what it holds.
"""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

from trt_bench import device, files, metadata, segments, stats, timer
from trt_bench.errors import CheckError, InputError
from trt_bench.runtimes import Options

SCHEMA = 1


@dataclass(frozen=True)
class How:
    """How long a segment is timed."""

    seconds: float = 0.5  # at a time
    bound: float = 0.02  # repeated until half the 95 % interval is less than this fraction of the median
    repeats: int = 5  # but at most so often
    force: bool = False  # mix device states


def measure(
    folder: str,
    output: str,
    runtime: ModuleType,
    reason: str,
    options: Options,
    how: How,
    progress: Callable[[str], None] = lambda text: None,
) -> str:
    """Time the segments of ``folder`` into ``output`` (.csv) and its sidecar (.json); return what to print.

    Raises InputError for what cannot be used, or where the sidecar was begun with other settings or in another state of
    the device, and CheckError for a segment that computes NaN or infinities.
    """
    wanted = segments.load(folder)
    sidecar = Path(output).with_suffix(".json")
    settings = {"batch": options.batches[0], "seconds": how.seconds, "bound": how.bound, "repeats": how.repeats}
    settings["precision"] = _precision(folder, wanted)
    document = {
        "schema": SCHEMA,
        "complete": False,
        "runtime": runtime.__name__.rpartition(".")[2],
        "reason": reason,
        "device": runtime.device(options),
        "settings": settings,
        "segments": [],
    }
    before = _begun(sidecar, document, how.force)
    for index, segment in enumerate(wanted):
        row = before.get(segment.digest)
        if row is None:
            label = f"segment {index + 1} of {len(wanted)}, {segment.path.name}"
            row, ran = _time(segment, runtime, options, how, lambda text, at=label: progress(text and f"{at}: {text}"))
            document["settings"] = {**settings, **ran}
        document["segments"].append({**row, "file": segment.path.name, "names": list(segment.names)})
        if segment.digest not in before:
            kept = [row for digest, row in before.items() if digest not in {s.digest for s in wanted[: index + 1]}]
            files.write_json(sidecar, {**document, "segments": document["segments"] + kept})
    files.write_text(output, rows(document["segments"]))
    files.write_json(sidecar, {**document, "complete": True})
    return _report(document, output, len(wanted) - sum(segment.digest in before for segment in wanted))


def rows(timed: list[dict]) -> str:
    """The text of latency.csv: a row for each name "st,end", in the order of the layers; times in ms."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["st", "end", "time", "stdev"])
    spans = [(segments.span(name), row) for row in timed for name in row["names"]]
    for span, row in sorted(((span, row) for span, row in spans if span), key=lambda pair: pair[0]):
        writer.writerow([*span, repr(row["time"]), repr(row["stdev"])])
    return text.getvalue()


def _time(
    segment: segments.Segment, runtime: ModuleType, options: Options, how: How, progress: Callable[[str], None]
) -> tuple[dict, dict]:
    """One segment's record, and how its runtime ran it."""
    progress("loading")
    batch = options.batches[0]
    model = runtime.load(segment.path, batch, options)
    example = np.random.default_rng(0).standard_normal(model.input_shape, dtype=np.float32)
    if not np.isfinite(model.infer(example)).all():
        raise CheckError(f"{segment.path}: computes NaN or infinity from random input; export it in another precision")
    model.bind(example)
    samples: list[float] = []
    repeats = 0
    while repeats < how.repeats:
        repeats += 1
        samples += timer.measure([model.repeat], how.seconds, progress=progress).samples_ms[0]
        median, low, high = stats.median_interval(samples)
        if (high - low) / 2 < how.bound * median:
            break
    row = {
        "sha256": segment.digest,
        "input_shape": list(model.input_shape),
        "time": median,
        "stdev": float(np.std(samples)),
        "ci95": [low, high],
        "repeats": repeats,
        "samples_ms": samples,
    }
    return row, model.settings


def _begun(sidecar: Path, document: dict, force: bool) -> dict[str, dict]:
    """What an earlier run has timed, by digest. Raises InputError where it was another measurement."""
    if not sidecar.exists():
        return {}
    try:
        before = json.loads(sidecar.read_text(encoding="utf-8"))
        if before["schema"] != SCHEMA:
            raise ValueError(f"schema is {before['schema']!r}")
        timed = {row["sha256"]: row for row in before["segments"]}
        same = {name: before["settings"][name] for name in document["settings"]}
        runtime, state = before["runtime"], before["device"]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{sidecar}: is no latency table of ours ({error}); give another -o, or remove it") from error
    if (runtime, same) != (document["runtime"], document["settings"]):
        raise InputError(
            f"{sidecar}: was begun with {runtime} and {_list(same)}, not {document['runtime']} and "
            f"{_list(document['settings'])}; give another -o, or remove it"
        )
    different = device.differences(state, document["device"])
    if different and timed and not force:
        raise InputError(
            f"{sidecar}: was begun in another state of the device ({'; '.join(different)}); restore it, give --force "
            "to mix them, or remove the file"
        )
    return timed


def _precision(folder: str, wanted: list[segments.Segment]) -> str:
    """The precision that all segments were exported in. Raises InputError where they differ."""
    found = sorted({metadata.read(segment.path).get("precision", "unknown") for segment in wanted})
    if len(found) > 1:
        raise InputError(f"{folder}: mixes segments in {', '.join(found)}; export them again, in one precision")
    return found[0]


def _list(settings: dict) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _report(document: dict, output: str, new: int) -> str:
    timed = document["segments"]
    names = sum(len(row["names"]) for row in timed)
    loose = [row for row in timed if row["ci95"][1] - row["ci95"][0] > 2 * document["settings"]["bound"] * row["time"]]
    lines = [f"{output}: {names} segments, {len(timed)} of them different, {new} timed now"]
    lines += [
        f"warning: {row['file']}: its interval is +-{50 * (row['ci95'][1] - row['ci95'][0]) / row['time']:.1f} % "
        "of its median; measure on a quieter machine, or with more --repeats"
        for row in loose
    ]
    return "\n".join(lines)
