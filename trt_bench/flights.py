"""Inferences on a GPU, one or several in flight at a time, and when each of their steps began and ended.

With several in flight, the copies of one inference run beside the computation of another, as in trtexec. They share one
input and one output, as in trtexec: each copies the same images.
"""

import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import inference_times
from .cuda import Gpu
from .execution import Execution, Streams


@dataclass(frozen=True)
class _Flight:
    """An inference that was enqueued: when the host did that, and the six events around its steps."""

    enqueued: tuple[float, float]
    events: tuple[Any, ...]


class Flights:
    """Runs an ``execution`` on ``streams``, with ``in_flight`` inferences at a time.

    ``launch`` enqueues the computation. Without ``transfers`` nothing is copied. ``spin`` waits with a busy CPU core.
    """

    def __init__(
        self,
        gpu: Gpu,
        streams: Streams,
        execution: Execution,
        launch: Callable[[], None],
        *,
        in_flight: int,
        transfers: bool,
        spin: bool,
    ):
        self._gpu, self._streams, self._execution, self._launch = gpu, streams, execution, launch
        self._in_flight, self._transfers = in_flight, transfers
        self._begin = gpu.event(spin=spin)
        self._events = [tuple(gpu.event(spin=spin) for _ in range(6)) for _ in range(in_flight)]

    def repeat(self, count: int) -> np.ndarray:
        """Run ``count`` inferences to their end; their trace, see `trt_bench.inference_times`."""
        self._gpu.record(self._begin, self._streams.copy_in)
        self._gpu.wait(self._begin)
        begin = inference_times.now_ms()  # the host's time of the first mark; events count from there
        flying: deque[_Flight] = deque()
        stamps = []
        for number in range(count):
            if len(flying) == self._in_flight:
                stamps.append(self._landed(flying.popleft(), begin))
            flying.append(self._start(self._events[number % self._in_flight]))
        stamps += [self._landed(flight, begin) for flight in flying]
        return np.stack(stamps)

    def _start(self, events: tuple[Any, ...]) -> _Flight:
        """Enqueue one inference, with an event before and after each of its three steps."""
        gpu, streams = self._gpu, self._streams
        copying, copied, computing, computed, returning, returned = events
        gpu.record(copying, streams.copy_in)
        if self._transfers:
            self._execution.copy_in()
        gpu.record(copied, streams.copy_in)
        if streams.compute != streams.copy_in:
            gpu.hold(streams.compute, copied)
        gpu.record(computing, streams.compute)
        begin = inference_times.now_ms()
        self._launch()
        end = inference_times.now_ms()
        gpu.record(computed, streams.compute)
        if streams.copy_out != streams.compute:
            gpu.hold(streams.copy_out, computed)
        gpu.record(returning, streams.copy_out)
        if self._transfers:
            self._execution.copy_out()
        gpu.record(returned, streams.copy_out)
        return _Flight((begin, end), events)

    def _landed(self, flight: _Flight, begin: float) -> np.ndarray:
        """Wait for an inference; the eight stamps of its trace."""
        self._gpu.wait(flight.events[-1])
        steps = itertools.pairwise((self._begin, *flight.events))
        return np.array([*flight.enqueued, *(begin + np.cumsum([self._gpu.elapsed_ms(*step) for step in steps]))])
