import math

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from export import check, max_error
from fold.errors import CheckError


def tampered(proto: onnx.ModelProto, factor: float) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(proto)
    [bias] = [tensor for tensor in copied.graph.initializer if tensor.name == "head.bias"]
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) * np.float32(factor), "head.bias"))
    return copied


def test_exported_network_matches(exported, tmp_path):
    images = np.random.default_rng(1).uniform(-2, 2, (70, 3, 12, 12)).astype(np.float32)
    path = tmp_path / "net.onnx"
    onnx.save(exported.simple, path)
    for model in (exported.lowered, exported.simple, path):
        assert check(exported.model, model, images) < 2e-6


def test_tampered_weights_fail_with_the_measured_error(exported):
    wrong = tampered(exported.simple, 1.5)
    error = max_error(exported.model, wrong)
    assert error > 1e-3
    with pytest.raises(CheckError, match=f"{error:.2e} .* tolerance 1e-04"):
        check(exported.model, wrong)
    assert check(exported.model, wrong, tolerance=error) == error  # the smallest tolerance that passes


def test_real_images_count(exported):
    # Not visible in noise: too far out for it.
    images = np.full((3, 3, 12, 12), np.nan, np.float32)
    assert math.isnan(max_error(exported.model, exported.simple, images))
    with pytest.raises(CheckError):
        check(exported.model, exported.simple, images)


def test_what_is_not_finite_fails(exported):
    with pytest.raises(CheckError, match="nan"):
        check(exported.model, tampered(exported.simple, math.inf))


def test_broken_graph_is_one_line(exported):
    broken = tampered(exported.simple, 1)
    broken.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(CheckError, match="ONNX Runtime cannot run") as caught:
        max_error(exported.model, broken)
    assert "\n" not in str(caught.value)
