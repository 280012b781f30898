import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from trt_bench import __main__, cli

ROOT = Path(__file__).parents[2]
CLASSES = 4


def save(path, nodes, weights, input_shape=("N", 3, 12, 12), output_shape=("N", CLASSES), metadata=None, **types):
    """Write an ONNX network from x to y."""
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", types.get("input_type", TensorProto.FLOAT), input_shape)],
        [helper.make_tensor_value_info("y", types.get("output_type", TensorProto.FLOAT), output_shape)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if metadata:
        helper.set_model_props(model, {f"layer_folding.{key}": value for key, value in metadata.items()})
    onnx.save(model, path)
    return str(path)


def save_convs(path, convs, batch="N", size=12, metadata=None):
    """A classifier of ``convs`` 3x3 convolutions with ReLU."""
    rng = np.random.default_rng(0)
    nodes, weights, value, channels = [], {}, "x", 3
    for index in range(convs):
        weights[f"w{index}"] = 0.1 * rng.standard_normal((16, channels, 3, 3), np.float32)
        nodes.append(helper.make_node("Conv", [value, f"w{index}"], [f"c{index}"], pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"]))
        value, channels = f"r{index}", 16
    weights["fc"] = rng.standard_normal((16, CLASSES), np.float32)
    nodes += [
        helper.make_node("GlobalAveragePool", [value], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "fc"], ["y"]),
    ]
    return save(path, nodes, weights, (batch, 3, size, size), (batch, CLASSES), metadata)


def save_linear(path, weight, batch="N", metadata=None):
    """A classifier of one linear layer on the flattened 3x4x4 image; ``weight`` is float32 [48, classes]."""
    nodes = [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])]
    return save(path, nodes, {"w": weight}, (batch, 3, 4, 4), (batch, weight.shape[1]), metadata)


def evalset(count=70, size=4, **changes):
    """The arrays of an eval.npz; ``changes`` replace some, None leaves one out."""
    rng = np.random.default_rng(1)
    arrays = {
        "images": rng.integers(0, 256, (count, 3, size, size), np.uint8),
        "labels": rng.integers(0, CLASSES, count).astype(np.int64),
        "mean": np.array([0.4, 0.5, 0.6], np.float32),
        "std": np.array([0.2, 0.3, 0.1], np.float32),
        **changes,
    }
    return {name: array for name, array in arrays.items() if array is not None}


@pytest.fixture(scope="session")
def onnx_folder(tmp_path_factory):
    """deep.onnx with eight convolutions, shallow.onnx with one. Not to be modified."""
    folder = tmp_path_factory.mktemp("onnx")
    described = {"depth": "9", "parameters": "16880", "macs": "2394000", "accuracy": "0.875", "precision": "fp32"}
    save_convs(folder / "deep.onnx", 8, metadata={**described, "recipe": "{}"})
    save_convs(folder / "shallow.onnx", 1)
    return folder


@pytest.fixture
def no_tensorrt(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)


@pytest.fixture
def run(monkeypatch, capsys):
    """Call the command line in this process: (exit code, stdout, stderr)."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["trt_bench", *map(str, arguments)])
        code = cli.run(__main__.main)
        return code, *capsys.readouterr()

    return call


def python(*arguments, **options):
    """Run Python on ``arguments`` in a process of its own, with the repository as its folder."""
    options.setdefault("stdout", subprocess.PIPE)
    options["env"] = {**os.environ, "PYTHONWARNINGS": "default", "PYTHONUNBUFFERED": "", **options.get("env", {})}
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=ROOT, stderr=subprocess.PIPE, text=True, timeout=60, **options
    )
