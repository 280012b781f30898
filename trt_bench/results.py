"""bench.json: write it whole, read it with checks."""

import json
import math
from pathlib import Path

from trt_bench import files
from trt_bench.errors import InputError

SCHEMA = 1
LATENCIES = ("median", "mean", "min", "max", "p90", "p95", "p99")
VERDICTS = ("faster", "slower", "no significant difference")


def save(path: str | Path, result: dict) -> None:
    """Write ``result`` to ``path`` atomically."""
    files.write_json(path, result)


def load(path: str | Path) -> dict:
    """Read a bench.json. Raises InputError if it is missing, no JSON, or not what ``bench`` writes."""
    try:
        result = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; `python -m trt_bench bench ... -o {path}` writes it") from error
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}); measure again with trt_bench bench") from error
    try:
        validate(result)
    except (KeyError, TypeError, ValueError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(
            f"{path}: no bench.json of schema {SCHEMA}: {what}; measure again with trt_bench bench"
        ) from error
    return result


def validate(result: dict) -> None:
    """Check the content of a bench.json; raises KeyError, TypeError or ValueError that says what is wrong."""
    _require(isinstance(result, dict), "not an object")
    _require(result["schema"] == SCHEMA, f"schema is {result['schema']!r}")
    _require(result["runtime"] in ("onnxruntime", "tensorrt"), f"runtime is {result['runtime']!r}")
    _require(
        isinstance(result["device"], dict) and isinstance(result["settings"], dict), "device or settings no object"
    )
    _require(isinstance(result["models"], list) and result["models"], "no models")
    for model in result["models"]:
        _model(model)
    if "prediction" in result:
        _prediction(result["prediction"])
    names = {model["name"] for model in result["models"]}
    if result["comparison"] is None:
        _require(len(names) == 1, "several models without a comparison")
        return
    for comparison in [result["comparison"], *result.get("comparisons", [])]:
        _require(comparison["baseline"] in names and comparison["candidate"] in names, "comparison of unknown models")
        _require(_number(comparison["speedup"]) and _interval(comparison["ci95"]), "comparison without numbers")
        _require(comparison["verdict"] in VERDICTS, f"verdict is {comparison['verdict']!r}")


def _model(model: dict) -> None:
    name = model["name"]
    _require(isinstance(name, str) and isinstance(model["path"], str), "name or path no string")
    _require(isinstance(model["precision"], str) and isinstance(model["batch"], int), f"{name}: precision or batch")
    latency = model["latency_ms"]
    _require(all(_number(latency[key]) for key in LATENCIES) and _interval(latency["ci95"]), f"{name}: latency_ms")
    samples = model["samples_ms"]
    _require(isinstance(samples, list) and samples and all(map(_number, samples)), f"{name}: samples_ms")
    _require(model["accuracy"] is None or 0 <= model["accuracy"] <= 1, f"{name}: accuracy")
    _require(isinstance(model.get("network", {}), dict), f"{name}: network")


def _prediction(prediction: dict) -> None:
    _require(isinstance(prediction["plan"], str), "prediction: plan no string")
    _require(_number(prediction["speedup"]) and _interval(prediction["ci95"]), "prediction without numbers")
    if prediction["obstacle"] is not None:
        _require(isinstance(prediction["obstacle"], str), "prediction: obstacle no string")
        return
    _require(_number(prediction["measured"]["speedup"]) and _interval(prediction["measured"]["ci95"]), "prediction")
    _require(_number(1 + prediction["miss"]), "prediction: miss")
    for row in prediction["merges"]:
        _require(row["layers"] and all(isinstance(layer, str) for layer in row["layers"]), "prediction: layers")
        numbers = [row["planned"], row["error"], *([] if row["again"] is None else [row["again"], *row["ci95"]])]
        _require(all(isinstance(number, (int, float)) for number in numbers), "prediction: merges without numbers")
        _require(isinstance(row["count"], int), "prediction: count")


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf


def _interval(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_number, value)) and value[0] <= value[1]


def _require(condition: object, what: str) -> None:
    if not condition:
        raise ValueError(what)
