"""ONNX Runtime on the CPU."""

from pathlib import Path

import numpy as np

from trt_bench import device as host
from trt_bench.errors import InputError
from trt_bench.runtimes import Loaded, check_input

EVAL_BATCH = 64


def load(path: str | Path, batch: int, threads: int) -> Loaded:
    """Load an ONNX file on ``threads`` CPU threads; an open batch axis takes ``batch``.

    Raises InputError if it is no network that ONNX Runtime loads, or not one from a float32 image batch to numbers.
    """
    session = _session(path, threads)
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

    def repeat(count: int) -> None:
        for _ in range(count):
            session.run(None, feed)

    def infer(images: np.ndarray) -> np.ndarray:
        try:
            return session.run([output.name], {name: images})[0]
        except Exception as error:  # ONNX Runtime has no common base class for what it raises
            raise InputError(f"{path}: ONNX Runtime cannot run it ({error}); export it again") from error

    eval_batch = batch if isinstance(inputs[0].shape[0], int) else EVAL_BATCH
    return Loaded(shape, eval_batch, bind, repeat, infer)


def device() -> dict:
    """The CPU and the version of ONNX Runtime, for bench.json."""
    import onnxruntime

    return {**host.describe(), "kind": "cpu", "name": host.cpu_name(), "runtime_version": onnxruntime.__version__}


def _session(path: str | Path, threads: int):
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(f"--runtime: cannot import onnxruntime ({error}); pip install onnxruntime") from error
    if threads > host.cores():
        raise InputError(f"--threads {threads}: this process may use {host.cores()} cores; give at most that many")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # what matters is raised as well
    # the threads of one network must not spin on the cores while another one is timed
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has no common base class for what it raises
        raise InputError(f"{path}: not an ONNX network that ONNX Runtime loads ({error}); export it again") from error
