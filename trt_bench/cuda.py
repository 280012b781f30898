"""The few CUDA calls that timing needs, through cuda-python or, where that is missing, pycuda.

Both classes have the same methods. Memory, streams and events live until the process ends, as the engines do.
"""

import ctypes
import sys
from collections.abc import Callable

import numpy as np

from trt_bench.errors import InputError


def available() -> "CudaPython | PyCuda":
    """The first binding that imports and finds a GPU. Raises InputError with the reason where there is none."""
    try:
        return CudaPython()
    except ImportError:
        pass
    try:
        gpu = PyCuda()
    except ImportError as error:
        raise InputError("neither cuda-python nor pycuda is installed") from error
    print("note: cuda-python is not installed; using pycuda, without CUDA graphs", file=sys.stderr)
    return gpu


def _dotted(version: int) -> str:
    """CUDA's 12060 as 12.6."""
    return f"{version // 1000}.{version % 1000 // 10}"


class CudaPython:
    """CUDA through ``cuda.bindings.runtime`` on the current GPU. Failed calls raise InputError."""

    graphs = True

    def __init__(self) -> None:
        from cuda.bindings import runtime

        self._rt = runtime
        status, count = runtime.cudaGetDeviceCount()
        if status != runtime.cudaError_t.cudaSuccess or count == 0:
            raise InputError(f"no GPU was found ({status.name})")
        device = self._call(runtime.cudaGetDevice)
        properties = self._call(runtime.cudaGetDeviceProperties, device)
        self.name = properties.name.split(b"\0")[0].decode()
        self.compute_capability = f"{properties.major}.{properties.minor}"
        self.cuda_driver = _dotted(self._call(runtime.cudaDriverGetVersion))
        self.pci = self._call(runtime.cudaDeviceGetPCIBusId, 32, device).split(b"\0")[0].decode()

    def _call(self, function: Callable, *arguments: object):
        status, *values = function(*arguments)
        if status != self._rt.cudaError_t.cudaSuccess:
            raise InputError(f"{function.__name__}: {status.name}; free GPU memory, or check that nvidia-smi works")
        return values[0] if values else None

    def malloc(self, size: int) -> int:
        """Address of ``size`` bytes on the GPU."""
        return int(self._call(self._rt.cudaMalloc, size))

    def pinned(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """A page-locked array on the host."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        address = int(self._call(self._rt.cudaMallocHost, size))
        return np.frombuffer((ctypes.c_byte * size).from_address(address), dtype=dtype).reshape(shape)

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

    def synchronize(self, stream: int) -> None:
        """Wait for everything enqueued on ``stream``."""
        self._call(self._rt.cudaStreamSynchronize, stream)

    def event(self, spin: bool = False):
        """A new event, on which `wait` spins or else gives the CPU core away."""
        return self._call(
            self._rt.cudaEventCreateWithFlags, self._rt.cudaEventDefault if spin else self._rt.cudaEventBlockingSync
        )

    def record(self, event, stream: int) -> None:
        """Enqueue ``event``."""
        self._call(self._rt.cudaEventRecord, event, stream)

    def wait(self, event) -> None:
        """Return when ``event`` has passed."""
        self._call(self._rt.cudaEventSynchronize, event)

    def elapsed_ms(self, start, stop) -> float:
        """GPU time between two events that have passed."""
        return float(self._call(self._rt.cudaEventElapsedTime, start, stop))

    def capture(self, enqueue: Callable[[], None], stream: int) -> Callable[[], None]:
        """Record what ``enqueue`` puts on ``stream`` as a CUDA graph; return the function that launches it there."""
        mode = self._rt.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call(self._rt.cudaStreamBeginCapture, stream, mode)
        try:
            enqueue()
        finally:
            graph = self._call(self._rt.cudaStreamEndCapture, stream)
        executable = self._call(self._rt.cudaGraphInstantiate, graph, 0)
        return lambda: self._call(self._rt.cudaGraphLaunch, executable, stream)


class PyCuda:
    """CUDA through pycuda on GPU 0, without CUDA graphs. Failed calls raise pycuda's errors."""

    graphs = False

    def __init__(self) -> None:
        from pycuda import driver

        self._driver = driver
        try:
            from pycuda import autoprimaryctx  # the context that TensorRT uses; pycuda gives it back at exit
        except (driver.Error, RuntimeError) as error:
            raise InputError(f"no GPU was found ({error})") from error
        device = autoprimaryctx.device
        self.name = device.name()
        self.compute_capability = ".".join(map(str, device.compute_capability()))
        self.cuda_driver = _dotted(driver.get_driver_version())
        self.pci = device.pci_bus_id()
        self._alive: list = []
        self._streams: dict[int, object] = {}

    def malloc(self, size: int) -> int:
        """Address of ``size`` bytes on the GPU."""
        self._alive.append(self._driver.mem_alloc(size))
        return int(self._alive[-1])

    def pinned(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """A page-locked array on the host."""
        return self._driver.pagelocked_empty(shape, dtype)

    def stream(self) -> int:
        """Handle of a new stream."""
        stream = self._driver.Stream()
        self._streams[stream.handle] = stream
        return stream.handle

    def to_device(self, address: int, source: np.ndarray, stream: int) -> None:
        """Enqueue the copy of a pinned array to the GPU."""
        self._driver.memcpy_htod_async(address, source, self._streams[stream])

    def to_host(self, target: np.ndarray, address: int, stream: int) -> None:
        """Enqueue the copy from the GPU into a pinned array."""
        self._driver.memcpy_dtoh_async(target, address, self._streams[stream])

    def synchronize(self, stream: int) -> None:
        """Wait for everything enqueued on ``stream``."""
        self._streams[stream].synchronize()

    def event(self, spin: bool = False):
        """A new event, on which `wait` spins or else gives the CPU core away."""
        flags = self._driver.event_flags
        return self._driver.Event(flags.DEFAULT if spin else flags.BLOCKING_SYNC)

    def record(self, event, stream: int) -> None:
        """Enqueue ``event``."""
        event.record(self._streams[stream])

    def wait(self, event) -> None:
        """Return when ``event`` has passed."""
        event.synchronize()

    def elapsed_ms(self, start, stop) -> float:
        """GPU time between two events that have passed."""
        return float(stop.time_since(start))
