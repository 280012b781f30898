"""CUDA through cuda-python."""

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from layer_folding.errors import InputError

from .cuda import Graph
from .cuda_versions import dotted


class CudaPython:
    """CUDA through the runtime API of cuda-python on the current GPU. Failed calls raise InputError."""

    def __init__(self) -> None:
        try:
            try:
                from cuda.bindings import runtime
            except ModuleNotFoundError:
                from cuda import cudart as runtime  # before 12.6.1, which CUDA 12.2 of JetPack 6.0 needs
            status, count = runtime.cudaGetDeviceCount()
        except RuntimeError as error:  # versions look for the driver's library here or there
            raise InputError(f"no NVIDIA driver was found ({error})") from error
        self._rt = runtime
        if status != runtime.cudaError_t.cudaSuccess or count == 0:
            raise InputError(f"no GPU was found ({status.name})")
        device = self._call(runtime.cudaGetDevice)
        properties = self._call(runtime.cudaGetDeviceProperties, device)
        self.name = properties.name.split(b"\0")[0].decode()
        self.compute_capability = f"{properties.major}.{properties.minor}"
        self.cuda_driver = dotted(self._call(runtime.cudaDriverGetVersion))
        self.pci = self._call(runtime.cudaDeviceGetPCIBusId, 32, device).split(b"\0")[0].decode()

    def _call(self, function: Callable[..., Any], *arguments: object) -> Any:
        status, *values = function(*arguments)
        if status != self._rt.cudaError_t.cudaSuccess:
            raise InputError(f"{function.__name__}: {status.name}; free GPU memory, or check that nvidia-smi works")
        return values[0] if values else None

    def malloc(self, size: int) -> int:
        """Address of ``size`` bytes on the GPU."""
        return int(self._call(self._rt.cudaMalloc, size))

    def free(self, address: int) -> None:
        """Give back what `malloc` gave."""
        self._call(self._rt.cudaFree, address)

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """A page-locked array on the host."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        address = int(self._call(self._rt.cudaMallocHost, size))
        return np.frombuffer((ctypes.c_byte * size).from_address(address), dtype=dtype).reshape(shape)

    def unpin(self, array: np.ndarray) -> None:
        """Give back what `pinned` gave."""
        self._call(self._rt.cudaFreeHost, array.ctypes.data)

    def stream(self) -> int:
        """Handle of a new stream."""
        return int(self._call(self._rt.cudaStreamCreate))

    def to_device(self, address: int, source: np.ndarray, stream: int) -> None:
        """Enqueue the copy of a pinned array to the GPU."""
        kind = self._rt.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call(self._rt.cudaMemcpyAsync, address, source.ctypes.data, source.nbytes, kind, stream)

    def to_host(self, target: np.ndarray, address: int, stream: int) -> None:
        """Enqueue the copy from the GPU into a pinned array."""
        kind = self._rt.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call(self._rt.cudaMemcpyAsync, target.ctypes.data, address, target.nbytes, kind, stream)

    def hold(self, stream: int, event: Any) -> None:
        """Let ``stream`` go on only when ``event``, which was recorded on another stream, has passed."""
        self._call(self._rt.cudaStreamWaitEvent, stream, event, 0)

    def synchronize(self, stream: int) -> None:
        """Wait for everything enqueued on ``stream``."""
        self._call(self._rt.cudaStreamSynchronize, stream)

    def event(self, *, spin: bool = False) -> Any:
        """A new event, on which `wait` spins or else gives the CPU core away."""
        return self._call(
            self._rt.cudaEventCreateWithFlags, self._rt.cudaEventDefault if spin else self._rt.cudaEventBlockingSync
        )

    def record(self, event: Any, stream: int) -> None:
        """Enqueue ``event``."""
        self._call(self._rt.cudaEventRecord, event, stream)

    def wait(self, event: Any) -> None:
        """Return when ``event`` has passed."""
        self._call(self._rt.cudaEventSynchronize, event)

    def elapsed_ms(self, start: Any, stop: Any) -> float:
        """GPU time between two events that have passed."""
        return float(self._call(self._rt.cudaEventElapsedTime, start, stop))

    def capture(self, enqueue: Callable[[], None], stream: int) -> Graph:
        """What ``enqueue`` puts on ``stream``, as a CUDA graph."""
        mode = self._rt.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call(self._rt.cudaStreamBeginCapture, stream, mode)
        try:
            enqueue()
        except BaseException:
            self._rt.cudaStreamEndCapture(stream)
            self._rt.cudaGetLastError()  # which would else be the result of the next call
            raise
        status, graph = self._rt.cudaStreamEndCapture(stream)
        if status != self._rt.cudaError_t.cudaSuccess:
            self._rt.cudaGetLastError()
            raise InputError(f"CUDA cannot capture it as a graph ({status.name})")
        executable = self._call(self._rt.cudaGraphInstantiate, graph, 0)
        self._call(self._rt.cudaGraphDestroy, graph)
        return Graph(
            launch=lambda: self._call(self._rt.cudaGraphLaunch, executable, stream),
            release=lambda: self._call(self._rt.cudaGraphExecDestroy, executable),
        )
