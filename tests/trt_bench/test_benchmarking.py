"""`lf.bench`, the benchmark from Python."""

import inspect

import pytest

import layer_folding as lf
from layer_folding.errors import InputError


@pytest.mark.slow
def test_two_networks_side_by_side(onnx_folder):
    paths = [onnx_folder / "deep.onnx", onnx_folder / "shallow.onnx"]
    told = []
    result = lf.bench(paths, runtime="onnxruntime", seconds=0.1, batch=[1, 2], progress=told.append)
    assert isinstance(result, lf.BenchResult)
    assert (result.comparison.candidate, result.comparison.batch) == ("shallow", 2)
    assert result.speedup > 1.5 and result.ci95[0] < result.speedup < result.ci95[1] and result.verdict == "faster"
    assert result.reason == "because of --runtime onnxruntime" and any("timing" in text for text in told)


def test_one_network_has_no_speedup(onnx_folder):
    result = lf.bench(onnx_folder / "shallow.onnx", runtime="onnxruntime", seconds=0.02)
    assert result.models[0].latency_ms.median > 0
    with pytest.raises(InputError, match="needs two ONNX files"):
        _ = result.verdict


def test_options_are_given_by_name(onnx_folder):
    parameters = inspect.signature(lf.bench).parameters
    assert [name for name, parameter in parameters.items() if parameter.kind is not parameter.KEYWORD_ONLY] == ["onnx"]
    with pytest.raises(InputError, match="nowhere\\.onnx: no such file"):
        lf.bench(onnx_folder / "nowhere.onnx", runtime="onnxruntime")
