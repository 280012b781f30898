import numpy as np
import pytest

from layer_folding.errors import CheckError, InputError
from layer_folding.evalset import read_evalset
from layer_folding.trt_bench import scoring
from layer_folding.trt_bench.runtimes import Options, onnxruntime
from tests.trt_bench.conftest import CLASSES, evalset, save_linear


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
    assert scoring.accuracy(network, read_evalset(tmp_path / "eval.npz"), path) == expected


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
        scoring.accuracy(onnxruntime.load(path, 1, Options()), read_evalset(tmp_path / "eval.npz"), path)


def test_a_score_that_is_no_number_has_no_accuracy(tmp_path):
    np.savez(tmp_path / "eval.npz", **evalset())
    path = save_linear(tmp_path / "linear.onnx", np.full((48, CLASSES), np.nan, np.float32), 1)
    with pytest.raises(CheckError, match=rf"{path}: gives NaN or infinity"):
        scoring.accuracy(onnxruntime.load(path, 1, Options()), read_evalset(tmp_path / "eval.npz"), path)
