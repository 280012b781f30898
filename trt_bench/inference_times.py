"""What happened when in each inference: eight stamps, as trtexec takes them, and its JSON of them.

A trace is float64 [inferences, 8], ms since some start: start and end of enqueueing (on the host), of the copy to the
GPU (h2d), of the computation, and of the copy back (d2h). On a CPU only the computation takes time.
"""

import json
import time

import numpy as np

from layer_folding import files

FIELDS = ("Enq", "H2d", "Compute", "D2h")
PARTS = {"enqueue": 0, "h2d": 2, "compute": 4, "d2h": 6}  # the column where each begins
COLUMNS = 8


def now_ms() -> float:
    """The host's clock, which the stamps count on."""
    return 1e-6 * time.perf_counter_ns()


def part(trace: np.ndarray, name: str) -> np.ndarray:
    """Duration in ms of one of PARTS, for each inference."""
    column = PARTS[name]
    return trace[:, column + 1] - trace[:, column]


def latency(trace: np.ndarray) -> np.ndarray:
    """Latency in ms of each inference by trtexec's definition: copy to the GPU, computation, copy back."""
    return part(trace, "h2d") + part(trace, "compute") + part(trace, "d2h")


def of_host(stamps_ns: list[int]) -> np.ndarray:
    """The trace of inferences that ran on the host one after another, ``stamps_ns`` before, between and after them."""
    stamps = 1e-6 * np.array(stamps_ns, dtype=np.float64)
    start, end = stamps[:-1, None], stamps[1:, None]
    return np.concatenate([start] * 5 + [end] * 3, axis=1)


def export(path: str, trace: np.ndarray) -> None:
    """Write a trace as trtexec --exportTimes does: a list of an object for each inference, ms from the first stamp."""
    shifted = trace - trace.min()
    entries = []
    for row in shifted.tolist():
        entry = {}
        for column, field in zip(PARTS.values(), FIELDS, strict=True):
            entry[f"start{field}Ms"], entry[f"end{field}Ms"] = row[column], row[column + 1]
        entry.update(h2dMs=row[3] - row[2], computeMs=row[5] - row[4], d2hMs=row[7] - row[6])
        entry["latencyMs"] = entry["h2dMs"] + entry["computeMs"] + entry["d2hMs"]
        entries.append(json.dumps(entry))
    files.write_text(path, "[\n  " + "\n, ".join(entries) + "\n]\n")
