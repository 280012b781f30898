"""CUDA through pycuda, where cuda-python is missing."""

from collections.abc import Callable
from typing import Any

import numpy as np

from layer_folding.errors import InputError

from .cuda import Graph
from .cuda_versions import dotted


class PyCuda:
    """CUDA through pycuda on GPU 0, without CUDA graphs. Failed calls raise pycuda's errors."""

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
        self.cuda_driver = dotted(driver.get_driver_version())
        self.pci = device.pci_bus_id()
        self._memory: dict[int, Any] = {}
        self._streams: dict[int, Any] = {}

    def malloc(self, size: int) -> int:
        """Address of ``size`` bytes on the GPU."""
        memory = self._driver.mem_alloc(size)
        self._memory[int(memory)] = memory
        return int(memory)

    def free(self, address: int) -> None:
        """Give back what `malloc` gave."""
        self._memory.pop(address).free()

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """A page-locked array on the host."""
        array: np.ndarray = self._driver.pagelocked_empty(shape, dtype)
        return array

    def unpin(self, array: np.ndarray) -> None:
        """Give back what `pinned` gave: the allocation that is the base of the array."""
        array.base.free()  # type: ignore[union-attr]

    def stream(self) -> int:
        """Handle of a new stream."""
        stream = self._driver.Stream()
        self._streams[stream.handle] = stream
        return int(stream.handle)

    def to_device(self, address: int, source: np.ndarray, stream: int) -> None:
        """Enqueue the copy of a pinned array to the GPU."""
        self._driver.memcpy_htod_async(address, source, self._streams[stream])

    def to_host(self, target: np.ndarray, address: int, stream: int) -> None:
        """Enqueue the copy from the GPU into a pinned array."""
        self._driver.memcpy_dtoh_async(target, address, self._streams[stream])

    def hold(self, stream: int, event: Any) -> None:
        """Let ``stream`` go on only when ``event``, which was recorded on another stream, has passed."""
        self._streams[stream].wait_for_event(event)

    def synchronize(self, stream: int) -> None:
        """Wait for everything enqueued on ``stream``."""
        self._streams[stream].synchronize()

    def event(self, *, spin: bool = False) -> Any:
        """A new event, on which `wait` spins or else gives the CPU core away."""
        flags = self._driver.event_flags
        return self._driver.Event(flags.DEFAULT if spin else flags.BLOCKING_SYNC)

    def record(self, event: Any, stream: int) -> None:
        """Enqueue ``event``."""
        event.record(self._streams[stream])

    def wait(self, event: Any) -> None:
        """Return when ``event`` has passed."""
        event.synchronize()

    def elapsed_ms(self, start: Any, stop: Any) -> float:
        """GPU time between two events that have passed."""
        return float(stop.time_since(start))

    def capture(self, enqueue: Callable[[], None], stream: int) -> Graph:
        """pycuda knows no CUDA graphs."""
        raise InputError("pycuda has no CUDA graphs")
