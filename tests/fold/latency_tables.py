"""Latency tables for tests, as `python -m trt_bench table` writes them."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path

Segments = Mapping[str, tuple[float, tuple[int, ...]]]  # by name: ms, and the shape of the input without the batch


def write_table(folder: Path, times: Segments, **changes: object) -> None:
    """Write latency.csv and latency.json: measured with fp32 and batch 1 on "EPYC", each time to +-0.01 ms."""
    segments = [
        {"names": [name], "time": time, "ci95": [time - 0.01, time + 0.01], "input_shape": [1, *shape]}
        for name, (time, shape) in times.items()
    ]
    document = {
        "complete": True, "runtime": "onnxruntime", "device": {"name": "EPYC"}, "segments": segments,
        "settings": {"batch": 1, "precision": "fp32"},
    }  # fmt: skip
    (folder / "latency.json").write_text(json.dumps({**document, **changes}))
    with open(folder / "latency.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["st", "end", "time", "stdev"])
        rows = [(*name.split(","), time, 0.01) for name, (time, _) in times.items() if name[0].isdigit()]
        writer.writerows(rows)


def table_of(found, merged: Mapping[tuple[str, ...], float]) -> dict[str, tuple[float, tuple[int, ...]]]:
    """The segments of ``found`` (`fold.candidates.Candidates`): 10 ms in all, 2 ms each span as it is; merged, 3 ms, or
    what ``merged`` gives for the activations that are gone."""
    times = {found.whole: (10.0, found.input_shape)}
    for candidate in (*found.found, *found.adding):
        times[candidate.apart] = (2.0, candidate.input_shape)
        times.setdefault(candidate.merged, (3.0, candidate.input_shape))
    for candidate in (*found.found, *found.adding):
        if candidate.changes in merged:
            times[candidate.merged] = (merged[candidate.changes], candidate.input_shape)
    return times
