"""A network as an ONNX file: simplified, converted to a precision, and compared with what it was made from.

The file gets its name only after it has passed the comparison.
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from torch import Tensor, nn

from layer_folding.errors import CheckError, InputError
from layer_folding.evalset import EvalSet
from layer_folding.files import atomic_path
from layer_folding.fold.devices import on_cpu

from . import onnx_metadata
from .calibrate import METHODS
from .lowering import lower
from .precision import QUANTISED, TOLERANCES, Calibration, convert
from .simplifying import simplify
from .verifying import accuracy, check

_CHECKED_IMAGES = 256  # the check is about arithmetic, not about accuracy


@dataclass(frozen=True)
class Source:
    """A network to export: simplified, in fp32; what its files are compared with; and what is known of it."""

    simple: onnx.ModelProto
    reference: nn.Module | onnx.ModelProto
    before: Counter[str]  # nodes by operator, as translated
    after: Counter[str]  # nodes by operator, simplified
    metadata: dict[str, object]


@dataclass(frozen=True)
class Exported:
    """The file ``path`` that was written, in ``precision``.

    ``nodes`` are the nodes of its graph before and after simplifying. ``error`` is its largest error over the largest
    output, which is the smallest tolerance at which the file passes. ``accuracy`` is a fraction, where it was measured.
    """

    path: Path
    precision: str
    nodes: tuple[int, int]
    error: float
    accuracy: float | None = None


def export(
    model: nn.Module,
    example: Tensor,
    path: str | Path,
    *,
    precision: str = "fp32",
    images: Tensor | np.ndarray | None = None,
    method: str = METHODS[0],
    keep: Collection[str] = (),
    opset: int = 20,
    batch: int | None = None,
    dynamic_size: bool = False,
) -> Exported:
    """Write ``model``, as it is in eval mode, to ``path`` as a simplified ONNX file, and compare the two.

    The file takes ``input`` [batch,C,H,W] and gives ``logits``.

    Args:
        model: any network that PyTorch's exporter can translate; it is not modified.
        example: one image [1,C,H,W], or a batch.
        path: the file to write.
        precision: "fp32", "fp16", "int8", or "int8-fp16" (int8 with the rest in fp16).
        images: [N,C,H,W], as the network takes them. int8 is calibrated on these images. Other precisions compare on
            these images, besides noise.
        method: how int8 is calibrated: "minmax", "entropy" or "percentile".
        keep: names of nodes or operators that stay in fp32.
        opset: the ONNX opset; 17 for TensorRT 8.6.
        batch: the batch size that the file is fixed to; None: any.
        dynamic_size: leave height and width open.

    Example:
        >>> import torch
        >>> import layer_folding as lf
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
        >>> written = lf.export(model, torch.rand(1, 3, 16, 16), "net.onnx", precision="fp16")
        >>> written.path.name, written.error < 0.01
        ('net.onnx', True)

    Raises:
        InputError: the model cannot be translated, or int8 has no images.
        CheckError: the file does not compute what the model computes. No file is left under ``path`` then.
    """
    if precision not in TOLERANCES:
        raise InputError(f"precision {precision!r}: is none of {', '.join(TOLERANCES)}")
    if images is None and precision in QUANTISED:
        raise InputError(
            f"precision {precision!r}: needs images to calibrate with; give images=, some hundred of the training"
        )
    model = on_cpu(model)
    if isinstance(images, Tensor):
        images = images.cpu()
    calibration = None if images is None else Calibration(np.asarray(images, np.float32), method)
    source = source_of(lower(model, example.cpu(), opset, batch, dynamic_size=dynamic_size), model)
    return write(source, precision, Path(path), calibration=calibration, keep=keep)


def source_of(
    lowered: onnx.ModelProto,
    reference: nn.Module | onnx.ModelProto,
    *,
    metadata: dict[str, object] | None = None,
    skip: Collection[str] = (),
) -> Source:
    """``lowered``, simplified but for the passes to ``skip``, with the ``reference`` that it was made from."""
    simple, before, after = simplify(lowered, skip)
    return Source(simple, reference, before, after, metadata or {})


def write(
    source: Source,
    precision: str,
    target: Path,
    *,
    evalset: EvalSet | None = None,
    calibration: Calibration | None = None,
    keep: Collection[str] = (),
    unquantised: Collection[str] = (),
) -> Exported:
    """Write ``source`` in ``precision`` to ``target``, which appears only after the file has passed its check.

    The check compares on noise and on images, those of ``evalset`` or else those that int8 is calibrated on; int8 on
    images alone, because its ranges are not those of noise. ``evalset`` also gives the accuracy. ``keep`` and
    ``unquantised`` are as in `convert`. Raises InputError, and
    CheckError: then an older file of the name is renamed to NAME.onnx.old.
    """
    shown = None if calibration is None else calibration.images[:_CHECKED_IMAGES]
    if evalset is not None:
        shown = evalset.inputs(_CHECKED_IMAGES)
    try:
        model, said = convert(source.simple, precision, calibration, keep, unquantised)
        with atomic_path(target) as temporary:
            difference = check(source.reference, model, shown, TOLERANCES[precision], noise=precision not in QUANTISED)
            right = None if evalset is None or evalset.labels is None else accuracy(model, evalset)
            known = source.metadata | said | ({} if right is None else {"accuracy": right})
            onnx_metadata.write(model, known)
            onnx.save(model, temporary)
    except CheckError as error:
        raise CheckError(f"{error}{_set_aside(target)}") from error
    return Exported(target, precision, (source.before.total(), source.after.total()), difference, right)


def _set_aside(target: Path) -> str:
    if not target.is_file():
        return f"; {target} was not written"
    old = target.with_name(f"{target.name}.old")
    target.replace(old)
    return f"; {target} was not written, and the one from before is now {old.name}"
