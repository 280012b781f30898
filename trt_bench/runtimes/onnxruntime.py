"""ONNX Runtime on the CPU or, with its CUDA provider, on a GPU."""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from trt_bench import audit, metadata, trace
from trt_bench import device as host
from trt_bench.errors import InputError
from trt_bench.runtimes import Loaded, Options, check_input

EVAL_BATCH = 64
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def load(path: str | Path, batch: int, options: Options) -> Loaded:
    """Load an ONNX file; an open batch axis takes ``batch``.

    Raises InputError if it is no network that ONNX Runtime loads, or not one from a float32 image batch to numbers.
    """
    session = _session(path, options)
    inputs = session.get_inputs()
    dtype = inputs[0].type.replace("tensor(float)", "float32") if inputs else "absent"
    shape = check_input(path, [node.shape for node in inputs], dtype, batch)
    name = inputs[0].name
    output = session.get_outputs()[0]
    if output.type not in ("tensor(float)", "tensor(float16)", "tensor(double)"):
        raise InputError(f"{path}: its first output is {output.type}; give a network whose output is float")
    feed = {}

    def bind(images: np.ndarray) -> None:
        feed[name] = images

    def repeat(count: int) -> np.ndarray:
        clock = time.perf_counter_ns
        stamps = [clock()]
        for _ in range(count):
            session.run(None, feed)
            stamps.append(clock())
        return trace.of_host(stamps)

    def infer(images: np.ndarray) -> np.ndarray:
        try:
            return session.run([output.name], {name: images})[0]
        except Exception as error:  # ONNX Runtime has no common base class for what it raises
            raise InputError(f"{path}: ONNX Runtime cannot run it ({error}); export it again") from error

    def profile(count: int) -> list[dict[str, float]]:
        with tempfile.TemporaryDirectory() as folder:
            profiled = _session(path, options, profile_prefix=f"{folder}/profile")
            profiled.run(None, feed)  # sets up what the first run sets up; dropped below
            for _ in range(count):
                profiled.run(None, feed)
            return _layer_times(json.loads(Path(profiled.end_profiling()).read_text()))[1:]

    eval_batch = batch if isinstance(inputs[0].shape[0], int) else EVAL_BATCH
    settings = {"threads": options.threads, "provider": options.provider}
    return Loaded(shape, eval_batch, bind, repeat, infer, profile, _module_map(path), settings)


def device(options: Options) -> dict:
    """The processor and the version of ONNX Runtime, for bench.json."""
    import onnxruntime

    if options.provider == "cuda":
        return {**host.describe(), "kind": "gpu", **host.gpu(), "runtime_version": onnxruntime.__version__}
    return {**host.describe(), "kind": "cpu", "name": host.cpu_name(), "runtime_version": onnxruntime.__version__}


def _module_map(path: str | Path) -> Callable[[str], list[str]]:
    """A function from the name of a node, as ONNX Runtime profiles it, to the modules that it computes.

    A node that ONNX Runtime has made by fusing goes by the value that it computes, such as "relu_1_nchwc"; it stands
    for the node that computes this value in the file, and, where that is an activation or a sum, the one before.
    """
    producers = metadata.producers(path)

    def modules(layer: str) -> list[str]:
        nodes = [layer]
        name, operator, source = producers.get(layer.removesuffix("_nchwc"), ("", "", ""))
        if name:
            fused = operator != "Conv" and "Pool" not in operator
            nodes = [producers.get(source, ("",))[0], name] if fused else [name]
        return [module for module in map(audit.module_of, nodes) if module]

    return modules


def _layer_times(events: list[dict]) -> list[dict[str, float]]:
    """The ms of each node in each run, from ONNX Runtime's trace of microseconds."""
    runs: list[dict[str, float]] = []
    nodes = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
    for event in sorted(nodes, key=lambda event: event["ts"]):
        layer = event["name"].removesuffix("_kernel_time")
        if not runs or layer in runs[-1]:
            runs.append({})
        runs[-1][layer] = event["dur"] / 1e3
    return runs


def _session(path: str | Path, options: Options, profile_prefix: str | None = None):
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
