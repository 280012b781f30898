import numpy as np
import pytest

from tests.trt_bench.conftest import CLASSES, evalset, save_linear
from trt_bench import evalset as module
from trt_bench.errors import InputError
from trt_bench.runtimes import Options, onnxruntime


@pytest.mark.parametrize("batch", ["N", 1, 7, 64, 100])
def test_accuracy_is_what_numpy_computes(tmp_path, batch):
    arrays = evalset()
    np.savez(tmp_path / "eval.npz", **arrays)
    weight = np.random.default_rng(2).standard_normal((48, CLASSES), np.float32)
    path = save_linear(tmp_path / "linear.onnx", weight, batch)
    inputs = (arrays["images"] / 255 - arrays["mean"].reshape(3, 1, 1)) / arrays["std"].reshape(3, 1, 1)
    expected = np.mean((inputs.reshape(len(inputs), -1) @ weight).argmax(axis=1) == arrays["labels"])
    network = onnxruntime.load(path, 1 if batch == "N" else batch, Options())
    assert 0 < expected < 1
    assert module.accuracy(network, module.load(tmp_path / "eval.npz"), path) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None}, "labels"),
        ({"images": np.zeros((70, 3, 4, 4), np.float32)}, "images are float32"),
        ({"images": np.zeros((70, 4, 4), np.uint8)}, r"images are uint8 \[70, 4, 4\]"),
        ({"images": np.zeros((0, 3, 4, 4), np.uint8)}, "images are uint8"),
        ({"labels": np.zeros(5, np.int64)}, r"labels are int64 \[5\]"),
        ({"labels": np.full(70, -1)}, "classes >= 0"),
        ({"mean": np.zeros(1, np.float32)}, "3 finite float32"),
        ({"mean": np.full(3, np.nan, np.float32)}, "3 finite float32"),
        ({"std": np.zeros(3, np.float32)}, "not positive"),
        ({"labels": np.array([object()] * 70)}, "not an .npz file"),  # pickled, so refused
    ],
)
def test_refuses_malformed_contents(tmp_path, changes, message):
    path = tmp_path / "eval.npz"
    np.savez(path, **evalset(**changes))
    with pytest.raises(InputError, match=message) as caught:
        module.load(path)
    assert str(caught.value).startswith(f"--data {path}: ")


@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "text", "truncated", "damaged", "npy"])
def test_refuses_what_is_no_archive(tmp_path, kind):
    path = tmp_path / "eval.npz"
    np.savez_compressed(path, **evalset())
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
    with pytest.raises(InputError, match=r"no such file|not an \.npz file"):
        module.load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": np.zeros((70, 3, 5, 5), np.uint8)}, r"images are \[3, 5, 5\], but .* takes \[3, 4, 4\]"),
        ({"labels": np.full(70, 9)}, "has class 9"),
    ],
)
def test_refuses_images_of_another_network(tmp_path, changes, message):
    np.savez(tmp_path / "eval.npz", **evalset(**changes))
    path = save_linear(tmp_path / "linear.onnx", np.zeros((48, CLASSES), np.float32))
    with pytest.raises(InputError, match=message):
        module.accuracy(onnxruntime.load(path, 1, Options()), module.load(tmp_path / "eval.npz"), path)
