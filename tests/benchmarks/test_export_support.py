"""Two small networks of the list go to ONNX at both opsets; `python -m benchmarks.export_support` does all."""

import pytest

from benchmarks.export_support import OPSETS, measure


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "ghostnet_100"])
def test_it_matches_pytorch_and_has_no_node_too_many(name):
    row = measure(name)
    assert row.failure is None
    assert tuple(row.exports) == OPSETS
    assert all(not export.left for export in row.exports.values())
