import numpy as np
import pytest

from fold.errors import InputError
from fold.evalset import read_evalset


def arrays(count=6):
    rng = np.random.default_rng(0)
    return {
        "images": rng.integers(0, 256, (count, 3, 4, 5), np.uint8),
        "labels": np.arange(count, dtype=np.int64),
        "mean": np.array([0.1, 0.2, 0.3], np.float32),
        "std": np.array([0.5, 1, 2], np.float32),
    }


def test_inputs_are_normalised_and_spread(tmp_path):
    content = arrays()
    np.savez(tmp_path / "eval.npz", **content)
    evalset = read_evalset(tmp_path / "eval.npz")
    inputs = evalset.inputs()
    assert inputs.dtype == np.float32 and inputs.shape == (6, 3, 4, 5)
    assert inputs[2, 1, 0, 0] == pytest.approx((content["images"][2, 1, 0, 0] / 255 - 0.2) / 1, rel=1e-5)
    np.testing.assert_array_equal(evalset.inputs(3), inputs[::2])
    np.testing.assert_array_equal(evalset.inputs(100), inputs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None}, "has no labels"),
        ({"images": np.zeros((6, 3, 4, 5), np.float32)}, "images is float32"),
        ({"images": np.zeros((6, 4, 5), np.uint8)}, "images is uint8 with 3 axes"),
        ({"images": np.zeros((0, 3, 4, 5), np.uint8), "labels": np.zeros(0, np.int64)}, "0 images"),
        ({"labels": np.zeros(5, np.int64)}, "6 images and 5 labels"),
        ({"mean": np.zeros(1, np.float32)}, "3 channels"),
        ({"std": np.zeros(3, np.float32)}, "std positive"),
        ({"labels": np.array([object()] * 6)}, "not a readable .npz"),  # pickled, so refused
    ],
)
def test_malformed_contents(tmp_path, changes, message):
    path = tmp_path / "eval.npz"
    np.savez(path, **{name: array for name, array in (arrays() | changes).items() if array is not None})
    with pytest.raises(InputError, match=message) as caught:
        read_evalset(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kind", ["empty", "text", "truncated", "npy"])
def test_not_an_archive(tmp_path, kind):
    path = tmp_path / "eval.npz"
    np.savez(path, **arrays())
    whole = path.read_bytes()
    np.save(tmp_path / "one.npy", np.zeros(3))
    path.write_bytes(
        {"empty": b"", "text": b"hello", "truncated": whole[:-90], "npy": (tmp_path / "one.npy").read_bytes()}[kind]
    )
    with pytest.raises(InputError, match=r"\.npz"):
        read_evalset(path)
