"""Engines by NVIDIA's own parser and builder: TensorRT-RTX needs no GPU for that."""

import pytest

from benchmarks import engines
from layer_folding.bench_results import EngineRecord


@pytest.fixture
def build(request):
    """build(path, batches) -> EngineRecord; the run says at its end how many engines were built (tests/conftest.py)."""
    if not engines.available():
        pytest.skip("TensorRT-RTX is not installed; pip install 'layer-folding[rtx]', on x86-64 Linux")

    def call(path, batches=(1,)) -> EngineRecord:
        built = engines.build(path, batches)
        request.node.user_properties.append(("engine", str(path)))
        return built

    return call
