"""`build --for` with NVIDIA's own parser and builder: what it prints, and what it refuses in one line."""

import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from benchmarks import engines
from layer_folding import command_line
from layer_folding.trt_bench import commands
from tests.trt_bench.conftest import save, save_convs, save_quantised_convs

WEIGHTS = np.ones((3, 3, 3, 3), np.float32)
SHAPE = ("N", 3, 12, 12)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    if not engines.available():
        pytest.skip("TensorRT-RTX is not installed; pip install 'layer-folding[rtx]', on x86-64 Linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "layer-folding" / "engines"


@pytest.fixture
def build(monkeypatch, capsys, request):
    """build(path, *options) -> (exit code, stdout, stderr)."""

    def call(path, *options):
        monkeypatch.setattr(sys, "argv", ["trt_bench", "build", str(path), *options])
        code = command_line.run(commands.main)
        out, err = capsys.readouterr()
        request.node.user_properties += [("engine", path)] * out.count(": built in ")
        return code, out, err

    return call


def test_an_engine_for_each_capability(build, tmp_path, cache):
    path = save_convs(tmp_path / "x.onnx", 2)
    code, out, err = build(path, "--runtime", "tensorrt-rtx", "--for", "sm86,sm89,12.0")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [line.split(": ")[1] for line in lines[::2]] == ["sm86", "sm89", "sm120"]
    assert all(" MB; layers: " in line and "; 2 of 2 convolutions in fp32" in line for line in lines[::2])
    assert set(lines[1::2]) == {"  as parsed: 2 of 2 convolutions and 1 of 1 matrix product in fp32"}
    assert len(list(cache.glob("*.plan"))) == 3


def test_engines_as_files_for_other_programs(build, tmp_path, cache):
    path = save_convs(tmp_path / "x.onnx", 2)
    code, out, err = build(path, "--for", "sm86,12.0", "-o", str(tmp_path / "engines"))
    assert (code, err) == (0, "")
    for capability, kept in zip(("86", "120"), out.splitlines()[::3], strict=True):
        written = tmp_path / "engines" / f"x-sm{capability}.engine"
        assert f"  wrote {written}" in out.splitlines()
        content = written.read_bytes()
        assert content[1:4] == b"trt"  # the sign of an engine of NVIDIA's
        assert Path(kept.split(": ")[2]).read_bytes().endswith(content)


def test_engines_of_one_name_are_refused_before_any_is_built(build, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        save_convs(tmp_path / folder / "x.onnx", 2)
    code, out, err = build(tmp_path / "a/x.onnx", str(tmp_path / "b/x.onnx"), "--for", "sm86", "-o", str(tmp_path))
    assert (code, out) == (2, "")
    assert err == f"error: -o {tmp_path}: two of the ONNX files are called x.onnx; build one at a time\n"


def test_an_int8_file(build, tmp_path):
    code, out, err = build(save_quantised_convs(tmp_path / "x.onnx", 3), "--for", "sm86")
    assert (code, err) == (0, "")
    assert (
        "; 3 of 3 convolutions in int8\n  as parsed: 3 of 3 convolutions in int8; 6 values quantised, each for" in out
    )


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([("Bernoulli", ["x"], ["y"], "a/Bernoulli")], "(Bernoulli a/Bernoulli: UNSUPPORTED_NODE: "),
        (
            [("Cast", ["x"], ["h"], "a/Cast"), ("Conv", ["h", "w"], ["y"], "b/Conv")],
            "(Conv b/Conv: INVALID_NODE: b/Conv: IConvolutionLayer `input` and `kernel` must be of same type.",
        ),
    ],
)
def test_what_the_parser_refuses_names_the_node(build, tmp_path, cache, nodes, message):
    made = [
        helper.make_node(kind, inputs, outputs, name, **({"to": TensorProto.FLOAT16} if kind == "Cast" else {}))
        for kind, inputs, outputs, name in nodes
    ]
    path = save(tmp_path / "x.onnx", made, {"w": WEIGHTS}, SHAPE, ("N", 3, None, None))
    code, out, err = build(path, "--for", "sm86")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: {path}: not an ONNX network that TensorRT-RTX ") and message in err
    assert err.endswith("); take that operator out of the network, or export it again\n")
    assert not list(cache.glob("*.plan"))


def test_what_a_gpu_lacks_is_one_line(build, tmp_path):
    path = save_convs(tmp_path / "x.onnx", 1)
    code, out, err = build(path, "--for", "sm75")
    assert (code, out) == (2, "")
    assert err == (
        f"error: {path}: TensorRT-RTX cannot build an engine of it (Cannot compile operation 'fc/MatMul' for Turing "
        "(SM75): FP32 GEMM is not supported); export it in another precision, or name another GPU\n"
    )


def test_a_capability_that_does_not_exist(build, tmp_path):
    code, out, err = build(save_convs(tmp_path / "x.onnx", 1), "--for", "sm87")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: --for sm87: TensorRT-RTX ") and "such as a Jetson's" in err
