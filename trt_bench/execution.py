"""An execution context of an engine at one batch size, with the memory of its inputs and outputs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from layer_folding.errors import InputError

from .binding import Binding
from .cuda import Gpu, Graph
from .engine import Engine


@dataclass(frozen=True)
class Streams:
    """Where copies to the GPU, computations and copies back are enqueued; on one stream they run one after another."""

    copy_in: int
    compute: int
    copy_out: int


class Execution:
    """An engine that is ready to run a batch on ``streams`` of ``gpu``, until `close`.

    ``profile`` is the number of the optimisation profile that was built for ``batch``. Raises InputError where TensorRT
    gives no context, where the context refuses the profile or the batch, and for an output of no fixed size.
    """

    def __init__(
        self, binding: Binding, path: str | Path, opened: Engine, batch: int, profile: int, gpu: Gpu, streams: Streams
    ):
        trt, engine = binding.trt, opened.engine
        self._binding, self._path, self._gpu, self._streams = binding, path, gpu, streams
        self.context: Any = opened.context()
        if self.context is None:
            raise self._refused("cannot run its engine")
        if profile:  # the first one is active from the start
            accepted = self.context.set_optimization_profile_async(profile, streams.compute)
            gpu.synchronize(streams.compute)
            if accepted is False:
                raise self._refused(f"cannot use its optimisation profile {profile}")
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        source = next(name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT)
        shape = (batch, *tuple(engine.get_tensor_shape(source))[1:])
        if self.context.set_input_shape(source, shape) is False:
            raise self._refused(f"does not take the input {list(shape)}")
        self._source, self._outputs = source, [name for name in names if name != source]
        shapes = {name: tuple(self.context.get_tensor_shape(name)) for name in names}
        for name, found in shapes.items():
            if any(axis < 0 for axis in found):
                raise InputError(
                    f"{path}: the size {list(found)} of {name} depends on the values in it; cut the network off before"
                )
        types = {name: binding.numpy_type(path, engine.get_tensor_dtype(name)) for name in names}
        self._hosts: dict[str, np.ndarray] = {}
        self._addresses: dict[str, int] = {}
        for name in names:
            self._hosts[name] = gpu.pinned(shapes[name], types[name])
            self._addresses[name] = gpu.malloc(self._hosts[name].nbytes)
            if self.context.set_tensor_address(name, self._addresses[name]) is False:
                self.close()
                raise self._refused(f"does not take the memory of {name}")

    @property
    def input(self) -> np.ndarray:
        """The page-locked array that `copy_in` copies."""
        return self._hosts[self._source]

    @property
    def output(self) -> np.ndarray:
        """The page-locked array of the first output, as of the last `copy_out`."""
        return self._hosts[self._outputs[0]]

    def copy_in(self) -> None:
        """Enqueue the copy of the input to the GPU."""
        self._gpu.to_device(self._addresses[self._source], self.input, self._streams.copy_in)

    def execute(self) -> None:
        """Enqueue the computation."""
        if not self.context.execute_async_v3(self._streams.compute):
            raise self._refused("could not run it")

    def capture(self) -> Graph:
        """The computation as a CUDA graph. Raises InputError where the engine or CUDA cannot capture it."""
        stream = self._streams.compute
        if hasattr(self.context, "is_stream_capturable") and not self.context.is_stream_capturable(stream):
            raise InputError(f"{self._binding.title} says that it cannot be captured as a CUDA graph")
        return self._gpu.capture(self.execute, stream)

    def copy_out(self) -> None:
        """Enqueue the copies of all outputs from the GPU."""
        for name in self._outputs:
            self._gpu.to_host(self._hosts[name], self._addresses[name], self._streams.copy_out)

    def finish(self) -> None:
        """Wait for everything that was enqueued."""
        for stream in dict.fromkeys(vars(self._streams).values()):
            self._gpu.synchronize(stream)

    def close(self) -> None:
        """Give back the context and its memory."""
        self.context = None
        for name in list(self._addresses):
            self._gpu.free(self._addresses.pop(name))
            self._gpu.unpin(self._hosts.pop(name))

    def _refused(self, what: str) -> InputError:
        return InputError(
            f"{self._path}: {self._binding.title} {what} ({self._binding.log.last}); free GPU memory or export it again"
        )
