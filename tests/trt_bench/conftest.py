import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from layer_folding import command_line
from layer_folding.trt_bench import binding, commands, cuda
from layer_folding.trt_bench.runtimes import tensorrt
from tests.trt_bench import fake_cuda, fake_tensorrt

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
        nodes.append(
            helper.make_node("Conv", [value, f"w{index}"], [f"c{index}"], f"block.{index}.conv/Conv", pads=[1] * 4)
        )
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"], f"block.{index}.act/Relu"))
        value, channels = f"r{index}", 16
    weights["fc"] = rng.standard_normal((16, CLASSES), np.float32)
    nodes += [
        helper.make_node("GlobalAveragePool", [value], ["pooled"], "pool/GlobalAveragePool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], "Flatten"),
        helper.make_node("MatMul", ["flat", "fc"], ["y"], "fc/MatMul"),
    ]
    return save(path, nodes, weights, (batch, 3, size, size), (batch, CLASSES), metadata)


def save_linear(path, weight, batch="N", metadata=None):
    """A classifier of one linear layer on the flattened 3x4x4 image; ``weight`` is float32 [48, classes]."""
    nodes = [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])]
    return save(path, nodes, {"w": weight}, (batch, 3, 4, 4), (batch, weight.shape[1]), metadata)


def save_typed(path, precision, says=None):
    """A linear layer that the graph itself runs in fp32, fp16 or int8, and metadata that ``says`` so or otherwise."""
    weight = np.random.default_rng(0).standard_normal((48, CLASSES), np.float32)
    flatten = helper.make_node("Flatten", ["x"], ["flat"], "Flatten")
    if precision == "fp32":
        nodes, weights = [helper.make_node("MatMul", ["flat", "w"], ["y"], "fc/MatMul")], {"w": weight}
    elif precision == "fp16":
        nodes = [
            helper.make_node("Cast", ["flat"], ["half"], "down/Cast", to=TensorProto.FLOAT16),
            helper.make_node("MatMul", ["half", "w"], ["product"], "fc/MatMul"),
            helper.make_node("Cast", ["product"], ["y"], "up/Cast", to=TensorProto.FLOAT),
        ]
        weights = {"w": weight.astype(np.float16)}
    else:
        nodes = [
            helper.make_node("QuantizeLinear", ["flat", "scale", "zero"], ["q"], "q/QuantizeLinear"),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"], "d/DequantizeLinear"),
            helper.make_node("DequantizeLinear", ["w", "scale", "zero"], ["v"], "w/DequantizeLinear"),
            helper.make_node("MatMul", ["d", "v"], ["y"], "fc/MatMul"),
        ]
        weights = {"w": (weight / 0.05).astype(np.int8), "scale": np.float32(0.05), "zero": np.int8(0)}
    metadata = {"precision": says or precision}
    return save(
        path, [flatten, *nodes], {k: np.asarray(v) for k, v in weights.items()}, ("N", 3, 4, 4), metadata=metadata
    )


def save_quantised_convs(path, count, size=8):
    """Convolutions that each read what was quantised."""
    constants = {"scale": np.float32(0.05), "zero": np.int8(0), "w": np.full((3, 3, 3, 3), 2, np.int8)}
    nodes, value = [], "x"
    for index in range(count):
        last = "y" if index == count - 1 else f"c{index}"
        nodes += [
            helper.make_node("QuantizeLinear", [value, "scale", "zero"], [f"q{index}"], f"q{index}/QuantizeLinear"),
            helper.make_node("DequantizeLinear", [f"q{index}", "scale", "zero"], [f"d{index}"], f"d{index}/Dequantize"),
            helper.make_node("DequantizeLinear", ["w", "scale", "zero"], [f"w{index}"], f"w{index}/Dequantize"),
            helper.make_node("Conv", [f"d{index}", f"w{index}"], [last], f"c{index}/Conv", pads=[1] * 4),
        ]
        value = last
    weights = {name: np.asarray(value) for name, value in constants.items()}
    shape = ("N", 3, size, size)
    return save(path, nodes, weights, shape, shape, metadata={"precision": "int8"})


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
    hide(monkeypatch)
    binding.find.cache_clear()


def hide(monkeypatch):
    """Let no TensorRT and no TensorRT-RTX be installed."""
    for name in (name for names in binding.MODULES.values() for name in names):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture
def install(monkeypatch, tmp_path_factory):
    """Put a fake TensorRT on a fake GPU in place: install(version, broken="", graphs=True) -> (tensorrt, gpu).

    The version RTX is that of TensorRT-RTX. Engines go to a cache folder of the test's own, ``install.cache``.
    """
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))

    def forget():
        tensorrt._gpu.cache_clear()
        binding.find.cache_clear()

    def put(version="10.3.0", broken="", graphs=True):
        gpu = fake_cuda.Gpu(graphs)
        module = fake_tensorrt.module(version, gpu, broken)
        hide(monkeypatch)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        if version == fake_tensorrt.RTX:
            gpu.compute_capability = "8.6"
        monkeypatch.setattr(cuda, "available", lambda: gpu)
        forget()
        return module, gpu

    put.cache = cache / "layer-folding" / "engines"
    yield put
    forget()


@pytest.fixture
def run(monkeypatch, capsys):
    """Call the command line in this process: (exit code, stdout, stderr)."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["trt_bench", *map(str, arguments)])
        code = command_line.run(commands.main)
        return code, *capsys.readouterr()

    return call


def python(*arguments, **options):
    """Run Python on ``arguments`` in a process of its own, with the repository as its folder."""
    options.setdefault("stdout", subprocess.PIPE)
    options["env"] = {**os.environ, "PYTHONWARNINGS": "default", "PYTHONUNBUFFERED": "", **options.get("env", {})}
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=ROOT, stderr=subprocess.PIPE, text=True, timeout=60, **options
    )
