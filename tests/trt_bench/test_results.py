import errno
import functools
import json
import operator
import os

import pytest

from trt_bench import report, results, stats
from trt_bench.errors import InputError


def model(name, samples, **changes):
    return {
        "name": name,
        "path": f"{name}.onnx",
        "precision": "fp32",
        "batch": 1,
        "latency_ms": stats.summary(samples),
        "samples_ms": list(samples),
        "accuracy": None,
        **changes,
    }


def example():
    """The smallest bench.json of schema 1: what another program may have written."""
    slow, fast = [2.0, 2.1] * 10, [1.0, 1.1] * 10
    return {
        "schema": 1,
        "runtime": "onnxruntime",
        "device": {},
        "settings": {},
        "models": [model("original", slow), model("folded", fast)],
        "comparison": {"baseline": "original", "candidate": "folded", **stats.compare(slow, fast)},
    }


def test_round_trip(tmp_path):
    path = tmp_path / "new" / "bench.json"
    results.save(path, example())
    assert results.load(path) == example()
    assert os.listdir(path.parent) == ["bench.json"]


def test_a_result_of_one_network_needs_no_comparison(tmp_path):
    result = {**example(), "models": [model("original", [1.0])], "comparison": None}
    results.save(tmp_path / "bench.json", result)
    assert results.load(tmp_path / "bench.json") == result
    assert "verdict" not in report.table(result)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[1, 2]", b"null", b"[" * 100_000, b'{"schema": 2}', b"{}"]
)
def test_corrupt_files_are_one_error(tmp_path, content):
    path = tmp_path / "bench.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"bench\.json: .*; measure again with trt_bench bench"):
        results.load(path)


def test_every_half_written_file_is_an_error(tmp_path):
    text = json.dumps(example())
    for length in range(0, len(text), 7):
        (tmp_path / "bench.json").write_text(text[:length])
        with pytest.raises(InputError):
            results.load(tmp_path / "bench.json")


MUST = [
    *["schema", "runtime", "device", "settings", "models", "models.0", "models.0.name", "models.0.path"],
    *["models.0.precision", "models.0.batch", "models.0.latency_ms", "models.1.latency_ms.median"],
    *["models.1.latency_ms.ci95", "models.0.samples_ms", "models.0.samples_ms.3", "models.0.accuracy", "comparison"],
    *["comparison.baseline", "comparison.speedup", "comparison.ci95", "comparison.ci95.0", "comparison.verdict"],
]


@pytest.mark.parametrize("place", MUST)
def test_wrong_values_are_errors(tmp_path, place):
    *path, last = [int(key) if key.isdecimal() else key for key in place.split(".")]
    for value in (None, "?", -1.5, float("nan"), float("inf"), [], {}):
        result = example()
        parent = functools.reduce(operator.getitem, path, result)
        fits = type(value) is type(parent[last]) and last in ("name", "path", "precision", "device", "settings")
        if fits or (last == "accuracy" and value is None):
            continue
        parent[last] = value
        (tmp_path / "bench.json").write_text(json.dumps(result))
        with pytest.raises(InputError, match=r"no bench\.json of schema 1"):
            results.load(tmp_path / "bench.json")


def test_missing_and_unreadable_files(tmp_path):
    with pytest.raises(InputError, match=r"no such file; .*writes it"):
        results.load(tmp_path / "bench.json")
    with pytest.raises(InputError, match="cannot be read"):
        results.load(tmp_path)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "bench.json"
    results.save(path, example())

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        results.save(path, {**example(), "runtime": "tensorrt"})
    assert results.load(path) == example()
    assert os.listdir(tmp_path) == ["bench.json"]
