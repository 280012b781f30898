"""The latency table that `python -m fold plan` plans with: every segment timed until two visits agree.

``latency.csv`` has a row ``st,end,time,stdev`` (ms) for each segment that is named by its layers. ``latency.json``
beside it has every segment with its samples, and the device and settings; it grows as segments are timed, and a run
that finds one goes on behind what it holds.

A segment is timed in the company of the whole network, so that it finds the caches as it would there
(`timer.in_network`).

What else runs on a machine can slow a segment down by half for as long as it is timed, so evenly that no interval shows
it. So all segments are visited in turn, and again: a visit is believed when another, at another time, agrees with it.
"""

import csv
import io
import itertools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import ModuleType

import numpy as np

from trt_bench import device, files, metadata, segments, stats, sysfs, timer
from trt_bench.errors import CheckError, InputError
from trt_bench.runtimes import Loaded, Options

SCHEMA = 3
WAITS = 0.05  # of the time: a process that waits more for a core shares it with others
AGREE = 0.05  # visits that are slower than the fastest by more were disturbed


@dataclass(frozen=True)
class How:
    """How long a segment is timed."""

    seconds: float = 0.5  # at each visit
    bound: float = 0.02  # visited until half the 95 % interval is less than this fraction of the median
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
    known = _begun(sidecar, document, how.force)
    network = segments.whole(wanted, folder)
    company = cache(partial(_ready, network, runtime, options))  # not loaded where there is nothing left to time
    new, began, waited = 0, time.monotonic(), _waited_s()
    for visit, segment in itertools.product(range(how.repeats), wanted):
        visits = known[segment.digest]["visits_ms"] if segment.digest in known else []
        if len(visits) > visit or _settled(visits, how):
            continue
        label = f"visit {visit + 1}, segment {wanted.index(segment) + 1} of {len(wanted)}, {segment.path.name}"
        tell = partial(_tell, progress, label)
        tell("loading")
        model = _ready(segment, runtime, options)
        repeat = model.repeat if segment == network else timer.in_network(model.repeat, company().repeat)
        (samples,) = timer.measure([repeat], how.seconds, progress=tell, untimed=0).samples_ms
        document["settings"] |= model.settings
        known[segment.digest] = _row(segment, model.input_shape, [*visits, samples])
        new += 1
        files.write_json(sidecar, {**document, "segments": [*known.values()]})
    document["segments"] = [
        {**known[segment.digest], "file": segment.path.name, "names": list(segment.names)} for segment in wanted
    ]
    files.write_text(output, rows(document["segments"]))
    files.write_json(sidecar, {**document, "complete": True})
    waited = (_waited_s() - waited) / (time.monotonic() - began)
    return _report(document, output, new, how, waited)


def rows(timed: list[dict]) -> str:
    """The text of latency.csv: a row for each name "st,end", in the order of the layers; times in ms."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["st", "end", "time", "stdev"])
    spans = [(segments.span(name), row) for row in timed for name in row["names"]]
    for span, row in sorted(((span, row) for span, row in spans if span), key=lambda pair: pair[0]):
        writer.writerow([*span, repr(row["time"]), repr(row["stdev"])])
    return text.getvalue()


def _tell(progress: Callable[[str], None], label: str, text: str) -> None:
    progress(text and f"{label}: {text}")


def _ready(segment: segments.Segment, runtime: ModuleType, options: Options) -> Loaded:
    """A segment, loaded, with random input. Raises CheckError where it computes NaN or infinities from that."""
    model = runtime.load(segment.path, options.batches[0], options)
    example = np.random.default_rng(0).standard_normal(model.input_shape, dtype=np.float32)
    if not np.isfinite(model.infer(example)).all():
        raise CheckError(f"{segment.path}: computes NaN or infinity from random input; export it in another precision")
    model.bind(example)
    return model


def believed(visits: list[list[float]]) -> list[list[float]]:
    """Of the visits to a segment (samples in ms) those that agree with the fastest; all, where no other does."""
    fastest = min(map(np.median, visits))
    agreeing = [samples for samples in visits if np.median(samples) <= (1 + AGREE) * fastest]
    return agreeing if len(agreeing) > 1 else visits


def _settled(visits: list[list[float]], how: How) -> bool:
    if len(visits) < 2:
        return False
    median, low, high = stats.median_interval(np.concatenate(believed(visits)))
    return (high - low) / 2 < how.bound * median


def _row(segment: segments.Segment, input_shape: tuple[int, ...], visits: list[list[float]]) -> dict:
    """A segment's record: ``time``, ``stdev`` and ``ci95`` (ms) of the visits that are believed."""
    samples = np.concatenate(believed(visits))
    median, low, high = stats.median_interval(samples)
    return {
        "sha256": segment.digest,
        "input_shape": list(input_shape),
        "time": median,
        "stdev": float(np.std(samples)),
        "ci95": [low, high],
        "visits_ms": visits,
        "file": segment.path.name,
        "names": list(segment.names),
    }


def _begun(sidecar: Path, document: dict, force: bool) -> dict[str, dict]:
    """What an earlier run has timed, by digest. Raises InputError where it was another measurement."""
    if not sidecar.exists():
        return {}
    try:
        before = json.loads(sidecar.read_text(encoding="utf-8"))
        if before["schema"] != SCHEMA:
            raise ValueError(f"schema is {before['schema']!r}")
        timed = {row["sha256"]: row for row in before["segments"] if row["visits_ms"]}
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
    document["settings"] = before["settings"]  # with how its runtime ran them
    return timed


def _precision(folder: str, wanted: list[segments.Segment]) -> str:
    """The precision that all segments were exported in. Raises InputError where they differ."""
    found = sorted({metadata.read(segment.path).get("precision", "unknown") for segment in wanted})
    if len(found) > 1:
        raise InputError(f"{folder}: mixes segments in {', '.join(found)}; export them again, in one precision")
    return found[0]


def _list(settings: dict) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _waited_s() -> float:
    """How long this process was ready to run, and had no core; 0 where the system does not tell."""
    counters = (sysfs.text(Path("/proc/self/schedstat")) or "").split()
    return 1e-9 * int(counters[1]) if len(counters) == 3 else 0.0


def _report(document: dict, output: str, new: int, how: How, waited: float) -> str:
    timed = document["segments"]
    names = sum(len(row["names"]) for row in timed)
    lines = [f"{output}: {names} segments, {len(timed)} of them different; visited {new} times now"]
    lines += [
        f"warning: {row['file']}: after {len(row['visits_ms'])} visits its interval is "
        f"+-{50 * (row['ci95'][1] - row['ci95'][0]) / row['time']:.1f} % of its median; measure on a quieter machine, "
        "or with more --repeats"
        for row in timed
        if not _settled(row["visits_ms"], how)
    ]
    if waited > WAITS:
        lines.append(
            f"warning: other work took the core for {waited:.0%} of the time: visits may agree on a wrong time; "
            f"remove {output} and its .json, and measure on a quiet machine"
        )
    return "\n".join(lines)
