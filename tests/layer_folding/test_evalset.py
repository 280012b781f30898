import numpy as np
import pytest

from layer_folding.errors import InputError
from layer_folding.evalset import read_evalset

COUNT = 70


def arrays():
    rng = np.random.default_rng(0)
    return {
        "images": rng.integers(0, 256, (COUNT, 3, 4, 5), np.uint8),
        "labels": np.arange(COUNT, dtype=np.int64),
        "mean": np.array([0.1, 0.2, 0.3], np.float32),
        "std": np.array([0.5, 1, 2], np.float32),
    }


def test_inputs_are_normalised_and_spread(tmp_path):
    content = arrays()
    np.savez(tmp_path / "eval.npz", **content)
    evalset = read_evalset(tmp_path / "eval.npz")
    inputs = evalset.inputs()
    assert inputs.dtype == np.float32 and inputs.shape == (COUNT, 3, 4, 5)
    assert inputs[2, 1, 0, 0] == pytest.approx((content["images"][2, 1, 0, 0] / 255 - 0.2) / 1, rel=1e-5)
    np.testing.assert_array_equal(evalset.inputs(COUNT // 2), inputs[::2])
    np.testing.assert_array_equal(evalset.inputs(100), inputs)


def test_the_last_batch_is_filled_up_with_the_last_image(tmp_path):
    np.savez(tmp_path / "eval.npz", **arrays())
    evalset = read_evalset(tmp_path / "eval.npz")
    inputs = evalset.inputs()
    np.testing.assert_array_equal(evalset.batch(0, 8), inputs[:8])
    np.testing.assert_array_equal(evalset.batch(COUNT - 2, 4), inputs[[-2, -1, -1, -1]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": None}, "has no mean"),
        ({"images": np.zeros((COUNT, 3, 4, 4), np.float32)}, "images are float32"),
        ({"images": np.zeros((COUNT, 4, 4), np.uint8)}, r"images are uint8 \[70, 4, 4\]"),
        ({"images": np.zeros((0, 3, 4, 5), np.uint8), "labels": np.zeros(0, np.int64)}, r"images are uint8 \[0, 3"),
        ({"labels": np.zeros(5, np.int64)}, r"labels are int64 \[5\]"),
        ({"labels": np.full(COUNT, -1)}, "classes >= 0"),
        ({"mean": np.zeros(1, np.float32)}, "3 finite float32"),
        ({"mean": np.full(3, np.nan, np.float32)}, "3 finite float32"),
        ({"std": np.zeros(3, np.float32)}, "std has values below 0.001"),
        ({"std": np.full(3, 1e-45, np.float32)}, "std has values below 0.001"),
        ({"labels": np.array([object()] * COUNT)}, "not a readable .npz"),  # pickled, so refused
    ],
)
def test_malformed_contents(tmp_path, changes, message):
    path = tmp_path / "eval.npz"
    np.savez(path, **{name: array for name, array in (arrays() | changes).items() if array is not None})
    with pytest.raises(InputError, match=message) as caught:
        read_evalset(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "text", "truncated", "damaged", "npy"])
def test_what_is_no_archive(tmp_path, kind):
    path = tmp_path / "eval.npz"
    np.savez_compressed(path, **arrays())
    whole = path.read_bytes()
    np.save(tmp_path / "one.npy", np.zeros(3))
    contents = {
        "empty": b"",
        "text": b"hello",
        "truncated": whole[:-90],
        "damaged": whole[:200] + bytes(500) + whole[700:],
        "npy": (tmp_path / "one.npy").read_bytes(),
    }
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes(contents[kind])
    with pytest.raises(InputError, match=r"no such file|not a readable \.npz"):
        read_evalset(path)


def test_a_set_of_another_network_is_refused_by_name(tmp_path):
    np.savez(tmp_path / "eval.npz", **arrays())
    evalset = read_evalset(tmp_path / "eval.npz")
    evalset.require("eval.npz", (3, 4, 5), COUNT)
    with pytest.raises(InputError, match=r"^eval.npz: images of \[3, 4, 5\], but the network takes \[3, 8, 8\]"):
        evalset.require("eval.npz", [3, 8, 8], COUNT)
    with pytest.raises(InputError, match=f"^eval.npz: labels up to {COUNT - 1}, but the network has 10 classes"):
        evalset.require("eval.npz", [3, 4, 5], 10)


def test_images_need_no_labels(tmp_path):
    np.savez(tmp_path / "eval.npz", **{name: array for name, array in arrays().items() if name != "labels"})
    evalset = read_evalset(tmp_path / "eval.npz")
    evalset.require("eval.npz", (3, 4, 5), 1)
    assert [len(batch) for batch in evalset.batches(30)] == [30, 30, 10]
    np.testing.assert_array_equal(np.concatenate(list(evalset.batches(30))), evalset.inputs())
    with pytest.raises(InputError, match=r"^eval\.npz: has images without labels; leave it out"):
        evalset.known_labels("eval.npz", "leave it out")
