"""Does the ONNX file compute what the original network computes?"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from layer_folding.errors import CheckError, InputError
from layer_folding.evalset import EvalSet
from layer_folding.fold.graph.preparing import private_copy

from .differences import Difference, Output, worst
from .network_outputs import tensors_of

TOLERANCE = 1e-4  # of the output scale: float32 rounding through a few hundred layers stays well below
_BATCHES = (1, 5)  # one image is the special case of many shape computations; 5 is neither 1 nor the traced batch of 2
_CHUNK = 64  # images of the given set at a time
_OPEN_SIZE = 64  # pixels, for axes that a network leaves open

Network = nn.Module | str | Path | onnx.ModelProto


def check(
    network: Network,
    onnx_model: str | Path | onnx.ModelProto,
    images: np.ndarray | None = None,
    tolerance: float = TOLERANCE,
    *,
    noise: bool = True,
) -> float:
    """Return ``max_error``, which is also the smallest tolerance that passes.

    Raises ``CheckError`` above ``tolerance``, and where ONNX Runtime cannot run the model.
    """
    found = difference(network, onnx_model, images, noise=noise)
    if not found.error <= tolerance:  # a NaN fails
        whose = "ONNX Runtime and PyTorch" if isinstance(network, nn.Module) else "it and the original"
        raise CheckError(
            f"{whose} differ by {found.error:.2e} of the output scale, above the tolerance {tolerance:.0e}, in "
            f"{found.where}"
        )
    return found.error


def max_error(
    network: Network, onnx_model: str | Path | onnx.ModelProto, images: np.ndarray | None = None, *, noise: bool = True
) -> float:
    """The ``error`` of `difference`."""
    return difference(network, onnx_model, images, noise=noise).error


def difference(
    network: Network, onnx_model: str | Path | onnx.ModelProto, images: np.ndarray | None = None, *, noise: bool = True
) -> Difference:
    """The largest absolute difference of ``onnx_model`` from ``network`` over the largest absolute value; the worst of
    all outputs and groups of channels.

    ``network`` is a PyTorch model (float32, taken as in eval mode and not modified) or another ONNX model, which runs
    in ONNX Runtime on the CPU as ``onnx_model`` does. Both see normal noise in batches of 1 and 5 (or the one that they
    take; and in two sizes where that is open), unless ``noise`` is False, and ``images``, float32 [N,C,H,W], where
    given. NaN where an output is not finite. Raises ``CheckError`` where ONNX Runtime cannot load or run a model, or
    where the outputs are not alike, and ``InputError`` for a network that returns something else than tensors.
    """
    session = open_session(onnx_model)
    actual, expected = _onnx_function(session), _function(network)
    outputs = [Output(entry.name) for entry in session.get_outputs()]
    for batch in _batches(session, images, noise):
        references = expected(batch)
        if len(references) != len(outputs):
            raise CheckError(f"ONNX Runtime gives {len(outputs)} outputs, and the original {len(references)}")
        for output, values, reference in zip(outputs, actual(batch), references, strict=True):
            if values.shape != reference.shape:
                raise CheckError(f"ONNX Runtime gives shape {list(values.shape)} instead of {list(reference.shape)}")
            output.add(reference, values)
    return worst(outputs)


def outputs_of(onnx_model: str | Path | onnx.ModelProto, images: np.ndarray) -> list[np.ndarray]:
    """All outputs of ``onnx_model`` for ``images``, float32 [N,C,H,W], in ONNX Runtime on the CPU.

    Where the batch size is fixed, images that do not fill a batch are left out. Raises ``CheckError`` where it cannot
    be run.
    """
    session = open_session(onnx_model)
    function = _onnx_function(session)
    batches = [function(batch) for batch in _batches(session, images, False)]
    return [np.concatenate(values) for values in zip(*batches, strict=True)]


def accuracy(onnx_model: str | Path | onnx.ModelProto, evalset: EvalSet) -> float:
    """The fraction of the images of ``evalset`` that ``onnx_model`` puts in their class, in ONNX Runtime on the CPU.

    Raises ``InputError`` where there are no labels, or the network does not give one score for each class,
    ``CheckError`` where a score is NaN or infinite.
    """
    session = open_session(onnx_model)
    logits = _onnx_function(session)
    size = session.get_inputs()[0].shape[0]
    size = size if isinstance(size, int) else _CHUNK
    classes = evalset.known_labels("--data", "leave it out")
    inputs, right = evalset.inputs(), 0
    for start in range(0, len(inputs), size):
        batch = inputs[start : start + size]
        full = batch if len(batch) == size else np.concatenate([batch, inputs[: size - len(batch)]])
        labels, scores = classes[start : start + size], logits([full])[0]
        if scores.ndim != 2 or labels.max() >= scores.shape[1]:
            raise InputError(
                f"--data: the network gives {list(scores.shape)}, not a score for each of {classes.max() + 1} "
                "classes; leave --data out, or give the eval.npz of the same run"
            )
        if not np.isfinite(scores).all():
            raise CheckError("it gives NaN or infinity for images of --data")
        right += int((scores[: len(labels)].argmax(1) == labels).sum())
    return right / len(inputs)


def open_session(onnx_model: str | Path | onnx.ModelProto) -> onnxruntime.InferenceSession:
    """A session of ONNX Runtime on the CPU. Raises ``CheckError`` where it cannot load the model."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong arrives as an exception
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # slow where anything else runs
    # else int8 products saturate at 16 bits on x86 CPUs that have no VNNI: 40 % off, from a file that is right
    options.add_session_config_entry("session.x64quantprecision", "1")
    source = onnx_model.SerializeToString() if isinstance(onnx_model, onnx.ModelProto) else str(onnx_model)
    with _reported():
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _batches(
    session: onnxruntime.InferenceSession, images: np.ndarray | None, noise: bool
) -> Iterator[list[np.ndarray]]:
    entries = session.get_inputs()
    for entry in entries:
        if entry.type != "tensor(float)":
            raise InputError(f"input {entry.name} is {entry.type}; export takes networks of float32 inputs")
    random = np.random.default_rng(0)
    fixed = entries[0].shape[0] if entries[0].shape and isinstance(entries[0].shape[0], int) else None
    is_open = any(not isinstance(n, int) for entry in entries for n in entry.shape[1:])
    for size in _OPEN_SIZE, *([2 * _OPEN_SIZE] if is_open else []):
        for count in ((fixed,) if fixed else _BATCHES) if noise else ():
            shapes = [
                [n if isinstance(n, int) else count if axis == 0 else size for axis, n in enumerate(entry.shape)]
                for entry in entries
            ]
            yield [random.standard_normal(shape, dtype=np.float32) for shape in shapes]
    if images is None:
        return
    step = fixed or _CHUNK
    for start in range(0, len(images) - (len(images) % fixed if fixed else 0), step):
        yield [images[start : start + step]]


def _function(network: Network) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
    if not isinstance(network, nn.Module):
        return _onnx_function(open_session(network))
    model = private_copy(network, share_weights=False).cpu()

    def run(inputs: list[np.ndarray]) -> list[np.ndarray]:
        with torch.no_grad():
            return [value.numpy() for value in tensors_of(model(*map(torch.from_numpy, inputs)))]

    return run


def _onnx_function(session: onnxruntime.InferenceSession) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
    names = [entry.name for entry in session.get_inputs()]

    def run(inputs: list[np.ndarray]) -> list[np.ndarray]:
        with _reported():
            return session.run(None, dict(zip(names, inputs, strict=True)))

    return run


@contextlib.contextmanager
def _reported() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # ONNX Runtime has one class per status and no base class for them
        raise CheckError(f"ONNX Runtime cannot run the model: {str(error).splitlines()[0]}") from error
