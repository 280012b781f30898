"""What NVIDIA's own parser and builder make of a network, without a GPU: TensorRT-RTX builds for a named one."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from torch import Tensor, nn

from layer_folding.bench_results import EngineRecord
from layer_folding.errors import CheckError, InputError
from layer_folding.export import lower, simplify
from layer_folding.export.onnx_metadata import write
from layer_folding.export.passes.linear import WEIGHTED
from layer_folding.export.precision import QUANTISED, Calibration, convert
from layer_folding.trt_bench.runtimes import Options
from layer_folding.trt_bench.runtimes.tensorrt import TENSORRT_RTX

PRECISIONS = ("fp32", "fp16", "int8")  # int8-fp16 has no file at opset 17
OPSETS = (17, 20)
CAPABILITY = "8.6"


@dataclass(frozen=True)
class Engines:
    """The number of engines that were built of a network, and why others were refused."""

    built: int
    refused: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "<br>".join([f"{self.built} of {self.built + len(self.refused)}", *self.refused])


def available() -> bool:
    """Whether TensorRT-RTX is installed; x86-64 Linux has it."""
    return TENSORRT_RTX.installed()


def export(
    model: nn.Module, example: Tensor, folder: Path, opset: int = 20, precisions: Sequence[str] = PRECISIONS
) -> dict[str, Path]:
    """``model`` as an ONNX file in each of ``precisions``; int8 is calibrated on ``example``, float32 [N,C,H,W].

    There is none in int8 where ``example`` is no batch of images, or where no layer has weights. The files are not
    compared with the model: networks with random weights need not be accurate.
    """
    simple = simplify(lower(model, example, opset))[0]
    calibration = Calibration(example.numpy().astype(np.float32))
    files = {}
    for precision in precisions:
        if precision in QUANTISED and not _quantisable(simple, example):
            continue
        converted, said = convert(onnx.ModelProto.FromString(simple.SerializeToString()), precision, calibration, ())
        write(converted, said)
        files[precision] = folder / f"{precision}.onnx"
        onnx.save(converted, files[precision])
    return files


def of_every_kind(model: nn.Module, example: Tensor) -> Engines:
    """The engines of ``model`` at each opset, in each precision."""
    built, refused = 0, []
    for opset in OPSETS:
        with tempfile.TemporaryDirectory() as folder:
            for precision, path in export(model, example, Path(folder), opset).items():
                try:
                    build(path)
                    built += 1
                except (InputError, CheckError) as error:
                    refused.append(f"{precision} at opset {opset}: {str(error).removeprefix(f'{path}: ')}")
    return Engines(built, tuple(refused))


def _quantisable(model: onnx.ModelProto, example: Tensor) -> bool:
    weights = {each.name for each in model.graph.initializer}
    layers = [node for node in model.graph.node if node.op_type in WEIGHTED and node.input[1] in weights]
    return example.ndim == 4 and bool(layers)


def build(path: Path, batches: tuple[int, ...] = (1,)) -> EngineRecord:
    """The engine of an ONNX file for a GPU of CAPABILITY. Raises InputError and CheckError, as ``build`` does."""
    return TENSORRT_RTX.build_engine(path, Options(batches, cache=path.parent / "engines"), CAPABILITY)
