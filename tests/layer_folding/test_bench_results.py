import errno
import functools
import json
import operator
import os
import random

import pytest

from layer_folding import bench_results, records, stats
from layer_folding.bench_results import BenchResult, ModelRecord
from layer_folding.bench_settings import BenchSettings
from layer_folding.device_records import DeviceRecord, JetsonRecord, WhileTimed
from layer_folding.errors import InputError
from layer_folding.prediction_records import PredictedMerge, Prediction, SegmentPair
from layer_folding.stats import Comparison


def model(name, samples, **changes):
    given = {"path": f"{name}.onnx", "precision": "fp32", "batch": 1, "accuracy": None, **changes}
    return ModelRecord(name=name, latency_ms=stats.summary(samples), samples_ms=tuple(samples), **given)


def compared(candidate, baseline_samples, samples, batch=1):
    speedup = stats.compare(baseline_samples, samples)
    return Comparison(**vars(speedup), baseline="original", candidate=candidate, batch=batch)


def example(**changes):
    """Two networks, of which nothing is known but their latencies."""
    slow, fast = [2.0, 2.1] * 10, [1.0, 1.1] * 10
    given = {
        "runtime": "onnxruntime",
        "device": DeviceRecord(),
        "settings": BenchSettings(),
        "models": (model("original", slow), model("folded", fast)),
        "comparisons": (compared("folded", slow, fast),),
        **changes,
    }
    return BenchResult(**given)


def written():
    """The smallest bench.json of schema 1: what another program may have written."""
    content = bench_results.to_json(example())
    del content["comparisons"], content["comparison"]["batch"], content["reason"]
    for entry in content["models"]:
        del entry["input_shape"], entry["network"]
    return content


def full():
    """A result with everything that can be in it."""
    merge = PredictedMerge(("a", "b"), 2, SegmentPair("apart 0,2", "0,2"), 0.4, 0.01, 0.3, (0.28, 0.32))
    seen = WhileTimed(3, ("power cap",), (900.0, 1000.0), (50.0, 60.0))
    jetson = JetsonRecord("Orin", "36.4.3", "6.2", "15W", (306.0, None), "podgov", {"VDD_IN": "the whole module"})
    bench = example(device=DeviceRecord(kind="gpu", name="Orin", jetson=jetson, while_timed=seen))
    measured = bench.comparison
    prediction = Prediction("plan.json", 2.0, (1.9, 2.1), None, None, measured, 0.05, (merge,))
    return example(device=bench.device, prediction=prediction, settings=BenchSettings(batches=(1,), threads=1))


@pytest.mark.parametrize("result", [example(), full()])
def test_round_trip(tmp_path, result):
    path = tmp_path / "new" / "bench.json"
    bench_results.save(path, result)
    assert bench_results.load(path) == result
    assert os.listdir(path.parent) == ["bench.json"]


def test_the_layout_of_schema_1(tmp_path):
    bench_results.save(tmp_path / "bench.json", full())
    content = json.loads((tmp_path / "bench.json").read_text())
    assert content["schema"] == 1 and content["comparison"] == content["comparisons"][-1]
    assert content["models"][0]["accuracy"] is None and content["models"][0]["latency_ms"]["ci95"][0] < 2.05
    assert content["prediction"]["merges"][0]["segments"] == {"apart": "apart 0,2", "merged": "0,2"}
    assert "prediction" not in bench_results.to_json(example())


def test_what_early_files_left_to_the_reader(tmp_path):
    (tmp_path / "bench.json").write_text(json.dumps({**written(), "a later key": 1}))
    assert bench_results.load(tmp_path / "bench.json") == example()


def test_the_headline_is_the_last_comparison():
    result = example()
    assert (result.speedup, result.ci95, result.verdict) == (
        result.comparison.speedup,
        result.comparison.ci95,
        "faster",
    )
    alone = example(models=result.models[:1], comparisons=())
    assert alone.comparison is None
    with pytest.raises(InputError, match="original: was measured alone"):
        _ = alone.speedup


def test_a_result_of_one_network_needs_no_comparison(tmp_path):
    result = example(models=(model("original", [1.0]),), comparisons=())
    bench_results.save(tmp_path / "bench.json", result)
    assert bench_results.load(tmp_path / "bench.json") == result


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[1, 2]", b"null", b"[" * 100_000, b'{"schema": 2}', b"{}"]
)
def test_corrupt_files_are_one_error(tmp_path, content):
    path = tmp_path / "bench.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"bench\.json: .*; measure again with trt_bench bench"):
        bench_results.load(path)


def test_every_half_written_file_is_an_error(tmp_path):
    text = json.dumps(written())
    for length in range(0, len(text), 7):
        (tmp_path / "bench.json").write_text(text[:length])
        with pytest.raises(InputError):
            bench_results.load(tmp_path / "bench.json")


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
        result = written()
        parent = functools.reduce(operator.getitem, path, result)
        fits = type(value) is type(parent[last]) and last in ("name", "path", "precision", "device", "settings")
        if fits or (last == "accuracy" and value is None):
            continue
        parent[last] = value
        (tmp_path / "bench.json").write_text(json.dumps(result))
        with pytest.raises(InputError, match=r"bench\.json: (damaged|is of schema)"):
            bench_results.load(tmp_path / "bench.json")


def test_missing_and_unreadable_files(tmp_path):
    with pytest.raises(InputError, match="no such file; measure again"):
        bench_results.load(tmp_path / "bench.json")
    with pytest.raises(InputError, match="cannot be read"):
        bench_results.load(tmp_path)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "bench.json"
    bench_results.save(path, example())

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        bench_results.save(path, example(runtime="tensorrt"))
    assert bench_results.load(path) == example()
    assert os.listdir(tmp_path) == ["bench.json"]


def places(content, at=()):
    """Every value in a JSON value, by its keys."""
    yield at
    if isinstance(content, (dict, list)):
        for key in content if isinstance(content, dict) else range(len(content)):
            yield from places(content[key], (*at, key))


WRONG = [None, True, 0, -1, 1.5, 10**400, float("nan"), float("inf"), "", "x", "\ud800", [], {}, [[]], {"a": None}]


@pytest.mark.slow
def test_no_damage_is_more_than_one_line(tmp_path):
    """Any value anywhere may be replaced by one of another kind; the file is read, or refused as an InputError."""
    generator = random.Random(0)
    path, refused = tmp_path / "bench.json", 0
    everywhere = [at for at in places(bench_results.to_json(full())) if at and "samples_ms" not in at[:-1]]
    for at in everywhere:
        for value in generator.sample(WRONG, 4):
            content = bench_results.to_json(full())
            functools.reduce(operator.getitem, at[:-1], content)[at[-1]] = value
            path.write_text(json.dumps(content))
            try:
                assert isinstance(bench_results.load(path), BenchResult)
            except InputError as error:
                refused += 1
                assert "\n" not in str(error) and len(str(error)) < 400 + len(str(path))
    assert refused > 2 * len(everywhere)


def test_a_value_is_named_by_its_place(tmp_path):
    content = written()
    content["models"][1]["latency_ms"]["median"] = "fast"
    (tmp_path / "bench.json").write_text(json.dumps(content))
    with pytest.raises(
        InputError, match=r"damaged: models\[1\]\.latency_ms\.median is 'fast', not a number; measure again"
    ):
        bench_results.load(tmp_path / "bench.json")


def test_other_schemas_are_told_apart_from_damage(tmp_path):
    (tmp_path / "bench.json").write_text('{"schema": 2}')
    with pytest.raises(records.OtherSchemaError, match="is of schema 2, and this version reads schema 1"):
        bench_results.load(tmp_path / "bench.json")
