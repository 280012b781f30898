from itertools import pairwise

import numpy as np
import onnx
import pytest
from onnx import helper

from layer_folding import records
from layer_folding.fold_results import MergedLayers
from layer_folding.report import drawing, layer_graph, page, run_folder
from layer_folding.report.layer_graph import Layer
from tests.report.conftest import conv, fold_json, save, write


def test_layers_with_what_follows_and_what_skips_them(folder):
    stem, one, two = layer_graph.layers(folder / "original.onnx")
    assert [layer.name for layer in (stem, one, two)] == ["stem", "block.conv1", "block.conv2"]
    assert one.shape == "3×3 4 → 4" and one.after == [("block.relu", "Relu")]
    assert (stem.sources, one.sources, two.sources) == ({layer_graph.INPUT}, {0}, {1})
    assert two.skips == {0} and two.after == [("block", "Add")]


def test_a_branch_reads_from_further_up(tmp_path):
    (stem, w0), (one, w1), (side, w2) = conv("stem", "x", "s"), conv("one", "s", "a"), conv("side", "s", "b", kernel=1)
    save(tmp_path / "n.onnx", [stem, one, side, helper.make_node("Add", ["a", "b"], ["y"])], [w0, w1, w2], "y")
    side = layer_graph.layers(tmp_path / "n.onnx")[2]
    assert side.sources == {0} and side.skips == {1} and side.shape == "1×1 4 → 4"


@pytest.mark.parametrize(
    ("groups", "stride", "shape"), [(4, 1, "3×3 depthwise 4"), (2, 2, "3×3 4 → 4 2 groups /2"), (1, 2, "3×3 4 → 4 /2")]
)
def test_shapes_say_groups_and_stride(tmp_path, groups, stride, shape):
    weight = onnx.numpy_helper.from_array(np.zeros((4, 4 // groups, 3, 3), dtype=np.float32), "w")
    node = helper.make_node("Conv", ["x", "w"], ["y"], "one/Conv", group=groups, strides=[stride, stride])
    save(tmp_path / "n.onnx", [node], [weight], "y")
    assert [layer.shape for layer in layer_graph.layers(tmp_path / "n.onnx")] == [shape]


def merges(*entries):
    return [records.decode(MergedLayers, entry) for entry in entries]


def test_a_merged_layer_is_level_with_its_parts_and_linked_to_each(folder):
    before, after = (layer_graph.layers(folder / f"{name}.onnx") for name in ("original", "folded"))
    sheet = drawing.sheet(before, after, merges(*fold_json()["folded"]))
    hues = {box.layer.name: box.hue for box in sheet.boxes}
    assert hues == {"stem": None, "block.conv1": 0, "block.conv2": 0, "block.conv1_conv2": 0}
    at = {(box.x, box.layer.name): box.y for box in sheet.boxes}
    left = [at[drawing.WIDE.left, name] for name in ("block.conv1", "block.conv2")]
    assert at[drawing.WIDE.right, "block.conv1_conv2"] == sum(left) / 2
    assert [hue for _, hue in sheet.links] == [0, 0] and len(sheet.arcs) == 1
    assert [box.after for box in sheet.boxes if box.layer.name == "block.conv1"] == [[("Relu", "gone")]]


def test_layers_keep_apart_where_groups_interleave():
    before = [Layer(name, "") for name in "abcd"]
    after = [Layer("ad", ""), Layer("bc", "")]
    known = fold_json()["folded"][0]
    folded = merges(
        {**known, "layers": ["a", "d"], "activations": [], "name": "ad"},
        {**known, "layers": ["b", "c"], "activations": [], "name": "bc"},
    )
    ys = [box.y for box in drawing.sheet(before, after, folded).boxes if box.x == drawing.WIDE.right]
    assert ys[1] - ys[0] >= drawing.WIDE.row


def deep(path, count):
    values = ["x", *(f"v{number}" for number in range(count))]
    convs = [conv(f"conv_{output}", source, output, kernel=1) for source, output in pairwise(values)]
    save(path, *zip(*convs, strict=True), values[-1])


@pytest.mark.parametrize(("layers", "drawn"), [(56, True), (300, True), (301, False)])
def test_deep_networks_are_drawn_up_to_a_limit(tmp_path, layers, drawn):
    folder = write(tmp_path / "run")
    deep(folder / "original.onnx", layers)
    html = page.render(run_folder.run(folder))
    assert ('<svg xmlns="http://www.w3.org/2000/svg" class="network wide"' in html) == drawn
    assert ("No drawing: 301 layers" in html) == (not drawn)
    assert len(html) < 2e6
