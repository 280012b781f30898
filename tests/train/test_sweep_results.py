import csv

import pytest

from layer_folding.train.sweep_results import Original, Point, as_text, draw, ednl, write_csv

ORIGINAL = Original(depth=20, accuracy=0.884)


def point(penalty: float, removed: int, depth: int, folded: float | None) -> Point:
    accuracy = {"original": 0.884, "prefold": 0.87}
    return Point(penalty, 9, removed, depth, accuracy if folded is None else {**accuracy, "folded": folded})


POINTS = [point(0.05, 0, 20, None), point(0.1, 2, 18, 0.885), point(0.25, 4, 16, 0.874), point(1.0, 7, 13, 0.8739)]


@pytest.mark.parametrize(("points", "layers"), [(POINTS, 16), (POINTS[:2], 18), (POINTS[3:], 20), (POINTS[:1], 20)])
def test_ednl_is_the_smallest_depth_that_loses_a_point_or_less(points, layers):
    assert ednl(points, ORIGINAL) == layers


def test_table():
    lines = as_text(POINTS, ORIGINAL).splitlines()
    assert lines[0] == "accuracy in % after each stage; the original network has 20 layers"
    assert lines[2] == "lambda  activations removed  depth  original  prefold  removed  hoisted  hardened  folded"
    assert lines[4].split() == ["0.05", "0", "of", "9", "20", "88.40", "87.00", "-", "-", "-", "-"]
    assert lines[6].split() == ["0.25", "4", "of", "9", "16", "88.40", "87.00", "-", "-", "-", "87.40"]
    assert "(EDNL): 16 layers" in lines[-1]


def test_csv(tmp_path):
    write_csv(tmp_path / "sweep.csv", POINTS)
    with open(tmp_path / "sweep.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["lambda"] for row in rows] == ["0.05", "0.1", "0.25", "1.0"]
    assert [row["folded"] for row in rows] == ["", "0.885", "0.874", "0.8739"]
    counts = [rows[2][name] for name in ("gates", "activations_removed", "depth", "hoisted")]
    assert counts == ["9", "4", "16", ""]


@pytest.mark.parametrize("points", [POINTS, POINTS[:1]])
def test_picture(tmp_path, points):
    draw(tmp_path / "sweep.png", points, ORIGINAL, "resnet20 on cifar10")
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
