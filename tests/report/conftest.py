"""A finished run of a small network with one skip, as the stages write it, without training one."""

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from layer_folding import fold_results, records, run_config, stats
from layer_folding.stages import STEPS

NAMES = ("block.conv1", "block.conv2", "block.relu")
ACCURACY = dict.fromkeys(STEPS, 0.9) | {
    "original": 0.9731, "hoisted": 0.8012, "folded": 0.9642
}  # fmt: skip


def conv(name: str, source: str, output: str, kernel: int = 3, channels: int = 4):
    """A convolution and its weights."""
    weight = np.zeros((channels, channels, kernel, kernel), dtype=np.float32)
    node = helper.make_node("Conv", [source, f"{name}.w"], [output], f"{name}/Conv", pads=[kernel // 2] * 4)
    return node, onnx.numpy_helper.from_array(weight, f"{name}.w")


def save(path: Path, nodes: list, weights: list, output: str) -> None:
    """Write an ONNX file with the input "x"."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 8, 8]) for name in ("x", output)]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:], weights)), path)


def fold_json(names=NAMES) -> dict:
    first, second, activation = names
    merge = {
        "layers": [first, second], "activations": [activation], "kernel": [5, 5], "stride": [1, 1], "groups": 1,
        "macs": [18432, 25600], "parameters": [296, 404], "name": f"{first}_conv2", "error": 1.5e-15,
    }  # fmt: skip
    return {
        "schema": fold_results.SCHEMA, "model": {"spec": "layer_folding:small", "arguments": {}}, "folded": [merge],
        "skipped": [{"layer": "head", "reason": "flatten is not linear"}], "max_error": 1.5e-15,
        "cost": {"original": {"depth": 4, "parameters": 700, "macs": 40000},
                 "folded": {"depth": 3, "parameters": 808, "macs": 47168}},
        "accuracy": ACCURACY, "agreement": {"images": 360, "same": 359, "ties": 1},
    }  # fmt: skip


def bench_json(original: float = 2.0, folded: float = 1.0, spread: float = 0.01, samples: int = 200, **changes) -> dict:
    """A measurement of both networks, in ms."""
    noise = np.random.default_rng(0).normal(1, spread, (2, samples))
    times = {"original": original * noise[0], "folded": folded * noise[1]}
    models = [
        {
            "name": name, "path": f"{name}.onnx", "precision": "fp32", "batch": 1, "samples_ms": values.tolist(),
            "latency_ms": records.as_json(stats.summary(values.tolist())), "accuracy": ACCURACY[name],
            "energy": None, "profile": None, "engine": None,
            "network": {"depth": 4 if name == "original" else 3, "accuracy": ACCURACY[name]},
        }
        for name, values in times.items()
    ]  # fmt: skip
    comparison = {
        "baseline": "original",
        "candidate": "folded",
        **records.as_json(stats.compare(*times.values())),
        "batch": 1,
    }
    return {
        "schema": 1, "runtime": "onnxruntime", "device": {"kind": "cpu", "name": "EPYC", "load_average": 0.25},
        "settings": {"batches": [1], "rounds": 100, "threads": 1}, "models": models,
        "comparison": comparison, "comparisons": [comparison], **changes,
    }  # fmt: skip


def config_json() -> dict:
    record = {"versions": {"python": "3.11.7", "torch": "2.15.0"}, "revision": "abc123"}
    shared = {"epochs": 0, "batch": 64, "lr": 0.1, "seed": 0}
    pretrain = {"model": "resnet20", "data": "digits", "size": 32, "mean": None}
    return {
        "schema": run_config.SCHEMA,
        "stages": {
            "pretrain": {"settings": {**pretrain, **shared}, "files": {"weights": "cfea6cbc406bb4a1"}, **record},
            "prefold": {
                "settings": {**shared, "penalty": 0.25, "sync_bn": False, "remove": ["a", "b"], "gate_weights": None},
                **record,
            },
            "finetune": {
                "settings": {**shared, "threshold": 0.9},
                "files": {"prefold.safetensors": "b75f5661281c36ef"},
                **record,
            },
        },
    }


def write(folder: Path, names=NAMES, **changes: dict) -> Path:
    """A whole run in ``folder``; ``changes`` are contents of bench, fold or config.json."""
    first, second, activation = names
    folder.mkdir(exist_ok=True)
    contents = {"config": config_json(), "fold": fold_json(names), "bench": bench_json(), **changes}
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "metrics.csv").write_text(
        f"stage,epoch,loss,accuracy,penalty,depth,seconds,{activation}\n"
        "prefold,1,0.5,0.91,0.9,4,1.5,0.125\nprefold,2,0.4,0.90,0.1,3,1.5,0.953\nfinetune,1,0.2,0.96,0,3,1.5,\n"
    )
    relu = helper.make_node("Relu", ["a"], ["b"], f"{activation}/Relu")
    (stem, w0), (one, w1), (two, w2) = conv("stem", "x", "s"), conv(first, "s", "a"), conv(second, "b", "c")
    add = helper.make_node("Add", ["c", "s"], ["y"], "block/Add")
    save(folder / "original.onnx", [stem, one, relu, two, add], [w0, w1, w2], "y")
    merged, w3 = conv(f"{first}_conv2", "s", "y", kernel=5)
    save(folder / "folded.onnx", [stem, merged], [w0, w3], "y")
    return folder


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "run")


class Page(HTMLParser):
    """What a page says: its ``text``, ``figures`` (where from, value, shown), elements by ``tags`` with attributes."""

    def __init__(self, html: str):
        super().__init__()
        self.text, self.figures, self.tags, self._open = "", [], [], None
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags.append((tag, given))
        if tag == "data":
            self._open = (given["data-from"], given["value"])

    def handle_data(self, text):
        self.text += text
        if self._open:
            self.figures.append((*self._open, text))
            self._open = None

    def sections(self) -> list[str]:
        return [given["id"] for tag, given in self.tags if tag in ("header", "section") and "id" in given]
