"""ONNX Runtime on the CPU or, with its CUDA provider, on a GPU."""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from layer_folding.bench_results import RuntimeName
from layer_folding.bench_settings import RunSettings
from layer_folding.device_records import DeviceRecord
from layer_folding.errors import InputError
from layer_folding.onnx_names import module_of

from .. import device as host
from .. import inference_times, onnx_nodes
from . import Loaded, Options, check_input

name: RuntimeName = "onnxruntime"
EVAL_BATCH = 64
TIMING = "one inference at a time, by the host's clock"
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def load(path: str | Path, batch: int, options: Options) -> "OnnxNetwork":
    """Load an ONNX file; an open batch axis takes ``batch``.

    Raises InputError if it is no network that ONNX Runtime loads, or not one from a float32 image batch to numbers.
    """
    return OnnxNetwork(path, batch, options)


def device(options: Options) -> DeviceRecord:
    """The processor and the version of ONNX Runtime."""
    import onnxruntime

    version: str = onnxruntime.__version__
    return host.gpu(version) if options.provider == "cuda" else host.cpu(version)


class OnnxNetwork(Loaded):
    """An ONNX file in a session of ONNX Runtime."""

    def __init__(self, path: str | Path, batch: int, options: Options):
        self._path, self._options = path, options
        self._session = _session(path, options)
        inputs = self._session.get_inputs()
        dtype = inputs[0].type.replace("tensor(float)", "float32") if inputs else "absent"
        self.input_shape = check_input(path, [node.shape for node in inputs], dtype, batch)
        self._input = inputs[0].name
        output = self._session.get_outputs()[0]
        if output.type not in ("tensor(float)", "tensor(float16)", "tensor(double)"):
            raise InputError(f"{path}: its first output is {output.type}; give a network whose output is float")
        self._output = output.name
        self._feed: dict[str, np.ndarray] = {}
        self._modules = _module_map(path)
        self.eval_batch = batch if isinstance(inputs[0].shape[0], int) else EVAL_BATCH
        self.settings = RunSettings(TIMING, threads=options.threads, provider=options.provider)

    def bind(self, images: np.ndarray) -> None:
        self._feed[self._input] = images

    def repeat(self, count: int) -> np.ndarray:
        clock, run, feed = time.perf_counter_ns, self._session.run, self._feed
        stamps = [clock()]
        for _ in range(count):
            run(None, feed)
            stamps.append(clock())
        return inference_times.of_host(stamps)

    def infer(self, images: np.ndarray) -> np.ndarray:
        try:
            return np.asarray(self._session.run([self._output], {self._input: images})[0])
        except Exception as error:  # ONNX Runtime has no common base class for what it raises
            raise InputError(f"{self._path}: ONNX Runtime cannot run it ({error}); export it again") from error

    def profile(self, count: int) -> list[dict[str, float]]:
        with tempfile.TemporaryDirectory() as folder:
            profiled = _session(self._path, self._options, profile_prefix=f"{folder}/profile")
            profiled.run(None, self._feed)  # sets up what the first run sets up; dropped below
            for _ in range(count):
                profiled.run(None, self._feed)
            return _layer_times(json.loads(Path(profiled.end_profiling()).read_text()))[1:]

    def modules(self, layer: str) -> list[str]:
        return self._modules(layer)

    def close(self) -> None:
        del self._session


def _module_map(path: str | Path) -> Callable[[str], list[str]]:
    """A function from the name of a node, as ONNX Runtime profiles it, to the modules that it computes.

    A node that ONNX Runtime has made by fusing goes by the value that it computes, such as "relu_1_nchwc"; it stands
    for the node that computes this value in the file, and, where that is an activation or a sum, the one before.
    """
    producers = onnx_nodes.read(path).producers

    def modules(layer: str) -> list[str]:
        names = [layer]
        node = producers.get(layer.removesuffix("_nchwc"))
        if node is not None and node.name:
            names = [node.name]
            before = producers.get(node.inputs[0]) if node.inputs else None
            if node.operator != "Conv" and "Pool" not in node.operator and before is not None:
                names = [before.name, node.name]
        return [module for module in map(module_of, names) if module]

    return modules


def _layer_times(events: list[dict[str, Any]]) -> list[dict[str, float]]:
    """The ms of each node in each run, from ONNX Runtime's trace of microseconds."""
    runs: list[dict[str, float]] = []
    nodes = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
    for event in sorted(nodes, key=lambda event: event["ts"]):
        layer = event["name"].removesuffix("_kernel_time")
        if not runs or layer in runs[-1]:
            runs.append({})
        runs[-1][layer] = event["dur"] / 1e3
    return runs


def _session(path: str | Path, options: Options, profile_prefix: str | None = None) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(f"--runtime: cannot import onnxruntime ({error}); pip install onnxruntime") from error
    if options.threads > host.cores():
        raise InputError(
            f"--threads {options.threads}: this process may use {host.cores()} cores; give at most that many"
        )
    provider = PROVIDERS[options.provider]
    if provider not in onnxruntime.get_available_providers():
        raise InputError(
            f"--provider {options.provider}: this ONNX Runtime is built without it; pip install onnxruntime-gpu"
        )
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    settings.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    settings.log_severity_level = 4  # what matters is raised as well
    # the threads of one network must not spin on the cores while another one is timed
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    # else int8 products saturate at 16 bits on x86 CPUs that have no VNNI, and the accuracy is not the network's
    settings.add_session_config_entry("session.x64quantprecision", "1")
    if profile_prefix:
        settings.enable_profiling = True
        settings.profile_file_prefix = profile_prefix
    try:
        session = onnxruntime.InferenceSession(str(path), settings, providers=[provider])
    except Exception as error:  # ONNX Runtime has no common base class for what it raises
        raise InputError(f"{path}: not an ONNX network that ONNX Runtime loads ({error}); export it again") from error
    if session.get_providers()[0] != provider:  # ONNX Runtime falls back on the CPU in silence
        raise InputError(f"--provider {options.provider}: it finds no GPU that it can use; check that nvidia-smi works")
    return session
