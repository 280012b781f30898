"""What runs a network: TensorRT or TensorRT-RTX on a GPU, ONNX Runtime on the CPU, behind one small interface."""

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from layer_folding.bench_results import TITLES, EngineRecord, RuntimeName
from layer_folding.bench_settings import RunSettings
from layer_folding.device_records import DeviceRecord
from layer_folding.errors import InputError

from .. import cuda_versions

if TYPE_CHECKING:
    from .tensorrt import TensorRt

INSTALL_RTX = "pip install 'layer-folding[rtx]', on x86-64 Linux; a Jetson has TensorRT instead"


@dataclass(frozen=True)
class Options:
    """How networks are loaded and run; each runtime takes what concerns it and records it in its settings."""

    batches: tuple[int, ...] = (1,)  # all batch sizes that will be asked for
    threads: int = 1  # ONNX Runtime: CPU threads
    provider: str = "cpu"  # ONNX Runtime: cpu or cuda
    cuda_graph: bool = True  # the rest is for TensorRT
    cuda_graph_obstacle: str | None = None  # why ``cuda_graph`` was switched off, where nobody asked for it
    transfers: bool = True  # copy input and output in each inference
    in_flight: int = 1  # inferences at a time, 1 or 2
    spin_wait: bool = False
    workspace_mib: int | None = None
    level: int | None = None
    dla: int | None = None
    cache: Path | None = None  # folder of engines; None: the user's
    progress: Callable[[str], None] = field(default=lambda text: None, compare=False)


class Loaded(ABC):
    """A network that is ready to run on a device, until `close`."""

    input_shape: tuple[int, ...]  # at the batch size of the measurement
    eval_batch: int  # images to give ``infer`` at a time when only the result counts
    settings: RunSettings  # the same for all networks of a measurement
    built: EngineRecord | None = None

    @abstractmethod
    def bind(self, images: np.ndarray) -> None:
        """Set the input of `repeat`: float32 of the input shape."""

    @abstractmethod
    def repeat(self, count: int) -> np.ndarray:
        """Run ``count`` inferences to their end; their trace, see `trt_bench.inference_times`."""

    @abstractmethod
    def infer(self, images: np.ndarray) -> np.ndarray:
        """The first output for float32 images of the input shape, or ``eval_batch`` of them."""

    @abstractmethod
    def profile(self, count: int) -> list[dict[str, float]]:
        """Run ``count`` inferences, slower than `repeat`; the ms by layer of each."""

    @abstractmethod
    def modules(self, layer: str) -> list[str]:
        """The PyTorch modules that a layer computes."""

    @abstractmethod
    def close(self) -> None:
        """Give back the memory of the network; it cannot run any more."""


class Runtime(Protocol):
    """What loads networks: the module of ONNX Runtime, or an object for TensorRT or TensorRT-RTX."""

    @property
    def name(self) -> RuntimeName:
        """As ``--runtime`` and the records have it."""

    def load(self, path: str | Path, batch: int, options: Options) -> Loaded:
        """The network of an ONNX file, ready to run at ``batch``. Raises InputError and CheckError."""

    def device(self, options: Options) -> DeviceRecord:
        """The processor that networks run on, and the versions."""


def choose(wanted: str, provider: str = "cpu") -> tuple[Runtime, str]:
    """The runtime for ``--runtime wanted`` and the reason as a clause that starts with "because".

    ``auto`` is TensorRT, else TensorRT-RTX, where its bindings import and a GPU is there that it serves, else ONNX
    Runtime; ``provider`` cuda asks for ONNX Runtime as well. Raises InputError where a runtime is wanted and cannot
    run.
    """
    from . import onnxruntime

    if wanted == "onnxruntime":
        return onnxruntime, "because of --runtime onnxruntime"
    if provider == "cuda":
        if wanted != "auto":
            raise InputError("--provider cuda: is for ONNX Runtime; give --runtime onnxruntime, or leave it out")
        return onnxruntime, "because of --provider cuda"
    found, reasons = _usable(wanted)
    if found is not None:
        return found, f"because of --runtime {wanted}" if wanted != "auto" else f"because {', and '.join(reasons)}"
    why, needs = " and ".join(reasons), _needs(wanted)
    if wanted != "auto":
        raise InputError(f"--runtime {wanted}: {why}; {needs}, or give --runtime onnxruntime")
    if importlib.util.find_spec("onnxruntime") is None:
        raise InputError(f"--runtime auto: TensorRT: {why}; {needs}. Or pip install onnxruntime, for the CPU")
    return onnxruntime, f"because {why}"


def choose_builder(wanted: str, capabilities: Sequence[str]) -> "TensorRt":
    """What builds engines, for ``--runtime wanted``: for the GPU of this machine, or for GPUs of ``capabilities``.

    Raises InputError where it cannot.
    """
    from . import tensorrt

    if not capabilities:
        found, reasons = _usable(wanted)
        if found is None:
            without = "" if wanted == "tensorrt" else "; TensorRT-RTX builds without a GPU where --for names one"
            raise InputError(f"--runtime {wanted}: {' and '.join(reasons)}; {_needs(wanted)}{without}")
        return found
    if wanted == "tensorrt":
        raise InputError("--for: TensorRT builds for the GPU of this machine; give --runtime tensorrt-rtx")
    if not tensorrt.TENSORRT_RTX.installed():
        raise InputError(f"--for: TensorRT-RTX is not installed; {INSTALL_RTX}")
    return tensorrt.TENSORRT_RTX


def _usable(wanted: str) -> tuple["TensorRt | None", list[str]]:
    """The first of TensorRT and TensorRT-RTX that is ``wanted`` and runs here, and clauses that say why."""
    from . import tensorrt

    reasons: list[str] = []
    asked = [each for each in (tensorrt.TENSORRT, tensorrt.TENSORRT_RTX) if wanted in ("auto", each.name)]
    for each in asked:
        obstacle = each.obstacle()
        if obstacle is None:
            return each, [*reasons, f"{TITLES[each.name]} finds a GPU"]
        reasons.append(obstacle)
    told = [reason for each, reason in zip(asked, reasons, strict=True) if each.installed()]
    return None, list(dict.fromkeys(told)) or reasons[:1]


def _needs(wanted: str) -> str:
    cuda = cuda_versions.requirement(cuda_versions.of_driver())
    if wanted == "tensorrt-rtx":
        return f"it needs an RTX GPU with its driver, {cuda}, and its own packages ({INSTALL_RTX})"
    return f"it needs an NVIDIA GPU with its driver, tensorrt and {cuda}"


def check_input(path: object, shapes: Sequence[Sequence[object]], dtype: str, batch: int) -> tuple[int, ...]:
    """The input shape at ``batch`` of a network whose inputs have ``shapes`` (unknown axes: not a positive int).

    Raises InputError unless it has one float32 input of which at most the batch axis is open.
    """
    if len(shapes) != 1:
        raise InputError(f"{path}: has {len(shapes)} inputs; give a network with one image input")
    shape = [axis if isinstance(axis, int) and axis > 0 else None for axis in shapes[0]]
    if dtype != "float32":
        raise InputError(f"{path}: its input is {dtype}; export it with a float32 input")
    if not shape or None in shape[1:]:
        raise InputError(f"{path}: input shape {shapes[0]} is open beyond the batch axis; export it with a fixed size")
    if shape[0] not in (None, batch):
        raise InputError(
            f"{path}: is fixed to batch {shape[0]}, not {batch}; use --batch {shape[0]} or export it again"
        )
    return (batch, *(axis for axis in shape[1:] if axis is not None))
