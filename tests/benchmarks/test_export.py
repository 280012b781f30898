import numpy as np
import pytest

from benchmarks.export import beside_others
from benchmarks.export_support import Export, Row, cells, page
from tests.export.passes.test_merging import conv, node
from tests.export.test_simplifying import make, norm, norm_node, normal


@pytest.mark.slow
def test_nodes_and_times_of_all_three():
    constants = {"v": normal(6, 4, 3, 3), "w": normal(5, 6, 1, 1), **norm(6), "p": np.array([0, 0, 1, 1, 0, 0, 1, 1])}
    nodes = [node("Pad", "x", "p", "q"), conv("q", "h", "v"), norm_node("h", "n"), conv("n", "y", "w")]
    row = beside_others("chain", make(nodes, ["y"], constants), 1, lambda text: None)
    assert row.name == "chain, 4 nodes" and row.rounds == 1
    counts = {name.split(":")[0]: int(name.split()[1]) for name in row.samples_ms}
    assert counts["export.simplify"] == 1 <= min(counts["onnxsim"], counts["onnxslim"])


def test_page_shows_what_failed():
    good = Export(exported=50, nodes=40, onnxsim=40, onnxslim=41, left={"BatchNormalization": 2}, error=2e-6)
    assert good.failure is None
    more = Export(exported=50, nodes=42, onnxsim=40, onnxslim=41, left={}, error=2e-6)
    assert more.failure == "42 nodes, 40 by onnxsim, 41 by onnxslim"
    wrong = Export(exported=50, nodes=40, onnxsim=40, onnxslim=41, left={}, error=float("nan"))
    assert wrong.failure == "off by nan"
    text = page([cells(Row("resnet18", {17: good, 20: good})), cells(Row("alexnet", {17: good}, "Error: no"))])
    assert "1 of 2 networks pass" in text
    assert (
        "| resnet18 | torchvision | 50 => 40 | 40, 41 | 2e-06 | 50 => 40 | 40, 41 | 2e-06 | BatchNormalization 4 |"
        in text
    )
    assert "| alexnet | torchvision | 50 => 40 | 40, 41 | 2e-06 | - | - | - | **FAILED: Error: no** |" in text
