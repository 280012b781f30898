"""What runs a network: TensorRT on a GPU or ONNX Runtime on the CPU, behind one small interface.

A runtime is a module with ``load(path, batch, options)`` -> Loaded and ``device(options)`` -> dict.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import numpy as np

from trt_bench.errors import InputError


@dataclass(frozen=True)
class Options:
    """How networks are loaded and run; each runtime takes what concerns it and records it in its settings."""

    batches: tuple[int, ...] = (1,)  # all batch sizes that will be asked for
    threads: int = 1  # ONNX Runtime: CPU threads
    provider: str = "cpu"  # ONNX Runtime: cpu or cuda
    cuda_graph: bool = True  # the rest is for TensorRT
    transfers: bool = True  # copy input and output in each inference
    spin_wait: bool = False
    workspace_mib: int | None = None
    level: int | None = None
    dla: int | None = None
    cache: Path | None = None  # folder of engines; None: the user's
    progress: Callable[[str], None] = field(default=lambda text: None, compare=False)


@dataclass(frozen=True)
class Loaded:
    """A network that is ready to run on a device."""

    input_shape: tuple[int, ...]  # at the batch size of the measurement
    eval_batch: int  # images to give ``infer`` at a time when only the result counts
    bind: Callable[[np.ndarray], None]  # set the input of ``repeat``
    repeat: Callable[[int], np.ndarray]  # run n inferences to their end; their trace, see trace.py
    infer: Callable[[np.ndarray], np.ndarray]  # float32 of the input shape, or with eval_batch images -> first output
    profile: Callable[[int], list[dict[str, float]]]  # run n inferences: ms by layer of each; slower than ``repeat``
    modules: Callable[[str], list[str]]  # layer -> the PyTorch modules that it computes
    settings: dict = field(default_factory=dict)  # how it runs, the same for all networks of a measurement
    built: dict = field(default_factory=dict)  # what its engine turned out to be


def choose(wanted: str, provider: str = "cpu") -> tuple[ModuleType, str]:
    """The runtime module for ``--runtime wanted`` and the reason as a clause that starts with "because".

    ``auto`` is TensorRT where it can be imported and a GPU is there, otherwise ONNX Runtime; ``provider`` cuda asks for
    ONNX Runtime as well. Raises InputError where TensorRT is wanted and cannot run.
    """
    if wanted == "onnxruntime":
        return _module("onnxruntime"), "because of --runtime onnxruntime"
    if provider == "cuda":
        if wanted == "tensorrt":
            raise InputError("--provider cuda: is for ONNX Runtime; give --runtime onnxruntime, or leave it out")
        return _module("onnxruntime"), "because of --provider cuda"
    tensorrt = _module("tensorrt")
    obstacle = tensorrt.obstacle()
    if obstacle is None:
        return tensorrt, "because of --runtime tensorrt" if wanted == "tensorrt" else "because TensorRT finds a GPU"
    if wanted == "tensorrt":
        raise InputError(
            f"--runtime tensorrt: {obstacle}; it needs an NVIDIA GPU with its driver, tensorrt and cuda-python "
            "(pip install tensorrt cuda-python; JetPack brings tensorrt), or give --runtime onnxruntime"
        )
    return _module("onnxruntime"), f"because {obstacle}"


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"trt_bench.runtimes.{name}")


def check_input(path: object, shapes: list[list], dtype: str, batch: int) -> tuple[int, ...]:
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
    return (batch, *shape[1:])
