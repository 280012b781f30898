"""What plays trt_bench.cuda where there is no GPU."""

import types

import numpy as np

from layer_folding.errors import InputError
from layer_folding.trt_bench.cuda import Graph


class Gpu:
    """A GPU whose addresses are keys of ``memory``, that logs what was enqueued, and on which an event is a time."""

    name = "fake GPU"
    compute_capability = "8.7"
    cuda_driver = "12.6"
    pci = "0000:01:00.0"
    COSTS_MS = types.MappingProxyType({"to_device": 0.01, "execute": 0.25, "to_host": 0.005})

    def __init__(self, graphs=True):
        self.graphs = graphs  # how many captures work: False for none, True for all
        self.memory = {}
        self.given = 0  # addresses so far
        self.streams = 0  # so far
        self.pages = 0  # page-locked arrays that are in use
        self.log = []
        self.now_ms = 0.0
        self.events = {}

    def _enqueue(self, what):
        self.log.append(what)
        self.now_ms += self.COSTS_MS.get(what, 0)

    def malloc(self, size):
        self.given += 1
        self.memory[self.given] = bytes(size)
        return self.given

    def free(self, address):
        del self.memory[address]

    def pinned(self, shape, dtype):
        self.pages += 1
        return np.zeros(shape, dtype)

    def unpin(self, array):
        self.pages -= 1

    def stream(self):
        self.streams += 1
        return self.streams

    def to_device(self, address, source, stream):
        self._enqueue("to_device")
        self.memory[address] = source.tobytes()

    def to_host(self, target, address, stream):
        self._enqueue("to_host")
        target[...] = np.frombuffer(self.memory[address], target.dtype).reshape(target.shape)

    def hold(self, stream, event):
        assert event in self.events
        self._enqueue("hold")

    def synchronize(self, stream):
        self._enqueue("synchronize")

    def event(self, *, spin=False):
        return object()

    def record(self, event, stream):
        self.events[event] = self.now_ms

    def wait(self, event):
        self._enqueue("wait")

    def elapsed_ms(self, start, stop):
        return self.events[stop] - self.events[start]

    def capture(self, enqueue, stream):
        self._enqueue("capture")
        if self.graphs is not True:
            if not self.graphs:
                raise InputError("CUDA cannot capture it as a graph (cudaErrorStreamCaptureUnsupported)")
            self.graphs -= 1
        return Graph(enqueue, lambda: self._enqueue("release"))
