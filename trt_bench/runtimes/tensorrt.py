"""TensorRT 8.6 to 11, or TensorRT-RTX, on a GPU: take an engine from the cache or build it, then run it."""

import functools
import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from layer_folding.bench_results import EngineRecord, RuntimeName
from layer_folding.bench_settings import RunSettings
from layer_folding.device_records import DeviceRecord
from layer_folding.errors import InputError

from .. import binding, building, compiled_kernels, cuda, engine, engine_layers, interruption
from .. import device as host
from ..execution import Execution, Streams
from ..flights import Flights
from . import Loaded, Options

# What is timed, by inferences in flight and whether they copy. With two in flight, throughput is higher, and the
# latency of one inference longer.
TIMING = {
    (1, True): "one inference at a time: copy in, compute, copy back, one after another (as trtexec --exposeDMA)",
    (1, False): "one inference at a time, of data that is on the GPU (as trtexec --exposeDMA --noDataTransfers)",
    (2, True): "two inferences in flight: copies run beside the computation of the other (trtexec's default)",
    (2, False): "two inferences in flight, of data that is on the GPU (as trtexec --noDataTransfers)",
}


@dataclass(frozen=True)
class TensorRt:
    """TensorRT or TensorRT-RTX as a runtime."""

    name: RuntimeName

    def obstacle(self) -> str | None:
        """Why it cannot be used here, as a clause; None if it can."""
        try:
            bound, gpu = binding.find(self.name), _gpu()
            bound.create(bound.trt.Builder)
        except InputError as error:
            return str(error)
        if bound.builds_without_gpu and gpu.compute_capability not in (able := building.capabilities(bound.trt)):
            return f"{bound.title} serves GPUs of {', '.join(able)}, and the {gpu.name} has {gpu.compute_capability}"
        return None

    def installed(self) -> bool:
        """Whether its bindings are there, though they may not import."""
        try:
            binding.find(self.name)
        except binding.NotInstalled:
            return False
        except InputError:
            pass
        return True

    def load(self, path: str | Path, batch: int, options: Options) -> "TensorRtNetwork":
        """Make the engine of an ONNX file ready to run ``batch`` images, building it unless the cache has it.

        The engine runs in the precision of the ONNX graph. Raises InputError if TensorRT rejects the file, and
        CheckError if the engine does not run in the precision that the file was exported in.
        """
        return TensorRtNetwork(binding.find(self.name), path, batch, options, _gpu())

    def open_engine(self, path: str | Path, options: Options) -> engine.Engine:
        """The engine of an ONNX file on this GPU, from the cache or built; see `trt_bench.engine.open_engine`."""
        return engine.open_engine(binding.find(self.name), path, options, _gpu())

    def build_engine(self, path: str | Path, options: Options, capability: str) -> EngineRecord:
        """The engine of an ONNX file for GPUs that are not here; see `trt_bench.engine.build_engine`."""
        return engine.build_engine(binding.find(self.name), path, options, capability)

    def device(self, options: Options) -> DeviceRecord:
        """The GPU and the versions."""
        return host.gpu(binding.find(self.name).version, _gpu())


TENSORRT = TensorRt("tensorrt")
TENSORRT_RTX = TensorRt("tensorrt-rtx")


@functools.cache
def _gpu() -> cuda.Gpu:
    return cuda.available()


@functools.cache
def _stream(gpu: cuda.Gpu, number: int) -> int:
    """A stream of ``gpu``, the same for all networks: streams live until the process ends, and a table has hundreds."""
    return gpu.stream()


class TensorRtNetwork(Loaded):
    """An engine that runs on a stream of its own, as a CUDA graph where that is wanted."""

    def __init__(self, bound: binding.Binding, path: str | Path, batch: int, options: Options, gpu: cuda.Gpu):
        self._opened = opened = engine.open_engine(bound, path, options, gpu)  # as long as this network
        self._trt = bound.trt
        self._gpu, self._progress = gpu, options.progress
        apart = options.in_flight > 1 and options.transfers  # copies of one inference beside another's computation
        streams = Streams(*(_stream(gpu, number if apart else 0) for number in range(3)))
        self._fresh = functools.partial(
            Execution, bound, path, opened, batch, options.batches.index(batch), gpu, streams
        )
        with interruption.deferred(options.progress):
            self._execution = self._fresh()
            self._execution.execute()  # TensorRT sets up in the first run what a graph cannot capture
            self._execution.finish()
        opened.warm()
        self._graph, obstacle = self._capture() if options.cuda_graph else (None, options.cuda_graph_obstacle)
        self._flights = Flights(
            gpu,
            streams,
            self._execution,
            self._graph.launch if self._graph else self._execution.execute,
            in_flight=options.in_flight,
            transfers=options.transfers,
            spin=options.spin_wait,
        )
        self._modules = engine_layers.module_map(opened.layers)
        self.input_shape, self.eval_batch, self.built = tuple(self._execution.input.shape), batch, opened.built
        self.settings = RunSettings(
            timing=TIMING[options.in_flight, options.transfers],
            in_flight=options.in_flight,
            cuda_graph=self._graph is not None,
            cuda_graph_obstacle=obstacle,
            transfers=options.transfers,
            pinned_host_memory=True,
            spin_wait=options.spin_wait,
            tf32="TensorRT's default: allowed for fp32 on GPUs that have it",
            workspace_mib=options.workspace_mib,
            optimization_level=options.level,
            dla=options.dla,
            kernel_specialization=compiled_kernels.SPECIALIZATION if opened.kernels else None,
            runtime_cache=True if opened.kernels else None,
        )

    def _capture(self) -> tuple[cuda.Graph | None, str | None]:
        """The network as a CUDA graph, or None and why it cannot be captured. trtexec goes on without one, too."""
        try:
            return self._execution.capture(), None
        except InputError as error:
            return None, str(error)

    def bind(self, images: np.ndarray) -> None:
        self._execution.input[...] = images
        self._execution.copy_in()
        self._execution.finish()

    def repeat(self, count: int) -> np.ndarray:
        return self._flights.repeat(count)

    def infer(self, images: np.ndarray) -> np.ndarray:
        self.bind(images)
        self._execution.execute()
        self._execution.finish()
        self._execution.copy_out()
        self._execution.finish()
        return self._execution.output.copy()

    def profile(self, count: int) -> list[dict[str, float]]:
        profiler = binding.profiler(self._trt)
        profiled = self._fresh()
        profiled.context.profiler = profiler
        with interruption.deferred(self._progress) as interrupted:
            for _ in itertools.takewhile(lambda _: not interrupted(), range(count)):
                profiled.execute()
                profiled.finish()
        profiled.close()
        return profiler.runs

    def modules(self, layer: str) -> list[str]:
        return self._modules(layer)

    def close(self) -> None:
        if self._graph:
            self._graph.release()
        self._execution.close()
