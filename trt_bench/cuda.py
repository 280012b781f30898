"""The few CUDA calls that timing needs, behind one interface for cuda-python and pycuda."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from layer_folding.errors import InputError

from . import cuda_versions


@dataclass(frozen=True)
class Graph:
    """A captured CUDA graph: ``launch`` puts it on its stream, ``release`` gives its memory back."""

    launch: Callable[[], None]
    release: Callable[[], None]


class Gpu(Protocol):
    """A GPU. Streams and events live until the process ends; memory until it is given back."""

    name: str
    compute_capability: str  # such as 8.7
    cuda_driver: str  # the CUDA version of the driver, such as 12.6
    pci: str

    def __hash__(self) -> int:
        """A GPU stands for itself."""

    def malloc(self, size: int) -> int:
        """Address of ``size`` bytes on the GPU."""

    def free(self, address: int) -> None:
        """Give back what `malloc` gave."""

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """A page-locked array on the host."""

    def unpin(self, array: np.ndarray) -> None:
        """Give back what `pinned` gave; ``array`` must not be used any more."""

    def stream(self) -> int:
        """Handle of a new stream."""

    def to_device(self, address: int, source: np.ndarray, stream: int) -> None:
        """Enqueue the copy of a pinned array to the GPU."""

    def to_host(self, target: np.ndarray, address: int, stream: int) -> None:
        """Enqueue the copy from the GPU into a pinned array."""

    def hold(self, stream: int, event: Any) -> None:
        """Let ``stream`` go on only when ``event``, which was recorded on another stream, has passed."""

    def synchronize(self, stream: int) -> None:
        """Wait for everything enqueued on ``stream``."""

    def event(self, *, spin: bool = False) -> Any:
        """A new event, on which `wait` spins or else gives the CPU core away."""

    def record(self, event: Any, stream: int) -> None:
        """Enqueue ``event``."""

    def wait(self, event: Any) -> None:
        """Return when ``event`` has passed."""

    def elapsed_ms(self, start: Any, stop: Any) -> float:
        """GPU time between two events that have passed."""

    def capture(self, enqueue: Callable[[], None], stream: int) -> Graph:
        """What ``enqueue`` puts on ``stream``, as a CUDA graph. Raises InputError where CUDA cannot capture it."""


def available() -> Gpu:
    """The first binding that imports and finds a GPU. Raises InputError with the reason where there is none."""
    try:
        from .cuda_python import CudaPython

        return CudaPython()
    except ImportError as error:
        missing = _obstacle("cuda-python", error)
    try:
        from .py_cuda import PyCuda

        gpu = PyCuda()
    except ImportError as error:
        version = cuda_versions.of_driver()
        remedy = f"pip install '{cuda_versions.requirement(version)}'" if version else "and there is no NVIDIA driver"
        raise InputError(f"{missing} and {_obstacle('pycuda', error)} ({remedy})") from error
    print(f"note: {missing}; using pycuda, without CUDA graphs", file=sys.stderr)
    return gpu


def _obstacle(package: str, error: ImportError) -> str:
    """That ``package`` is not there, or why what is there does not import."""
    if isinstance(error, ModuleNotFoundError):
        return f"{package} is not installed"
    return f"{package} cannot be imported ({error})"
