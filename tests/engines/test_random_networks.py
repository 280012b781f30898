"""Random networks, folded, through export and NVIDIA's own parser and builder."""

import os
import tempfile
from pathlib import Path

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from torch import Tensor, nn

from benchmarks.engines import export
from layer_folding.fold import fold, hoist_padding
from tests.fold.random_networks import random_networks

# Each example is two exports and up to six engines, some seconds.
EXAMPLES = max(int(os.environ.get("FUZZ_EXAMPLES", "1000")) // 100, 1)


class First(nn.Module):
    """The first of the values that ``network`` returns: a file has one output."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)[0]


@pytest.mark.slow
@pytest.mark.timeout(600 + 60 * EXAMPLES)
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(random_networks())
def test_random_networks(build, drawn):
    network, x = drawn
    folded = fold(hoist_padding(network, x)[0], x).model
    for model in (network, folded):
        with tempfile.TemporaryDirectory() as folder:
            files = export(First(model).float(), x.float(), Path(folder))
            assert {"fp32", "fp16"} <= files.keys()  # int8 needs images, and a layer with weights
            for precision, path in files.items():
                if precision == "int8" and quantised(path) == {"ConvTranspose"}:
                    continue  # TensorRT-RTX runs these in float, and `build` refuses an int8 engine without int8
                built = build(path)
                assert built.precision == precision and built.engine_bytes > 0


def quantised(path: Path) -> set[str]:
    """The operators that read dequantised weights in an ONNX file."""
    graph = onnx.load(path).graph
    quantised = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    return {node.op_type for node in graph.node if set(node.input[1:2]) & quantised}
