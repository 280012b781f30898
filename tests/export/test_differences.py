import math

import numpy as np
import pytest

from layer_folding.export.differences import Output, worst

RANDOM = np.random.default_rng(0)


def difference(*pairs):
    outputs = []
    for index, (expected, actual) in enumerate(pairs):
        outputs.append(Output(f"y{index}"))
        outputs[-1].add(np.asarray(expected, np.float32), np.asarray(actual, np.float32))
    return worst(outputs)


@pytest.mark.parametrize("axis", [1, 2])
def test_scores_beside_boxes_count_by_their_own_size(axis):
    boxes, scores = RANDOM.uniform(100, 600, (2, 4, 50)), RANDOM.uniform(0, 0.9, (2, 80, 50))
    whole = np.concatenate([boxes, scores], 1)
    zeroed = np.concatenate([boxes, 0 * scores], 1)
    if axis == 2:
        whole, zeroed = (x.transpose(0, 2, 1) for x in (whole, zeroed))
    found = difference((whole, zeroed))
    assert found.error == pytest.approx(0.75) and found.where == f"output y0, channels 4 to 83 of axis {axis}"
    found = difference((whole, whole * 1.001))
    assert found.error == pytest.approx(1e-3, rel=0.01)


def test_every_output_counts_by_its_own_size():
    large, small = np.full((2, 3), 1000.0), np.full((2, 3), 1.0)
    found = difference((large, large + 1), (small, small + 0.5))
    assert (found.error, found.where) == (pytest.approx(0.5), "output y1")


@pytest.mark.parametrize(
    ("images", "sizes", "off", "error"),
    [
        (64, [8.0, 1.0, 0.5, 4.0], 0.4, 0.4 / 8),  # one group
        (64, [1.0, 1.0, 1e-9, 1e-9], 1e-9, 1e-9 / 0.5001),  # rounding
        (64, [1.0, 1.0, 1e-2, 1e-2], 1e-3, 1e-3 / 0.51),  # rounding of the large values that it may be the sum of
        (64, [600.0, 600.0, 1.0, 0.01], 1.0, 0.75),  # boxes, then objectness, then scores
        (64, [1.0, 1.0, 1e-2, 1.0], 5e-3, 5e-3),  # one channel of a feature map that is small by chance
        (64, [1.0, 1.0, 1e-2, 1e-2], 5e-3, 0.25),
        (5, [1.0, 1.0, 1e-2, 1.0], 5e-3, 5e-3),  # a score that is small by chance
    ],
)
def test_what_has_a_size_of_its_own(images, sizes, off, error):
    expected = np.tile(sizes, (images, 1))
    actual = expected + np.array([0, 0, off, 0])
    assert difference((expected, actual)).error == pytest.approx(error, rel=1e-3)


def test_what_is_not_finite_is_a_nan_wherever_it_is():
    one = np.ones((2, 3))
    for bad in (np.nan, np.inf):
        assert math.isnan(difference((one, one * 2), (one, one * bad)).error)
        assert math.isnan(difference((one * bad, one), (one, one)).error)


def test_scalars_vectors_and_axes_of_changing_length():
    assert difference((np.array(2.0), np.array(1.0))).error == 0.5
    assert difference((np.array([2.0, 100.0]), np.array([1.0, 100.0]))).error == pytest.approx(0.01)
    output = Output("y")
    for length in (5, 7):
        output.add(np.ones((1, 3, length), np.float32), np.full((1, 3, length), 1.25, np.float32))
    assert output.worst().error == 0.25
    assert difference((np.zeros((1, 2)), np.zeros((1, 2)))).error == 0
    assert difference((np.zeros((1, 2)), np.ones((1, 2)))).error == 1
