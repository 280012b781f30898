"""TensorRT's Python bindings, 8.6 to 11: import, logger, progress, numpy types. Versions differ; names are probed."""

import functools
import re
from collections.abc import Callable

from trt_bench.errors import InputError


@functools.cache
def log():
    """The one TensorRT logger of the process (TensorRT takes no second), which keeps the last error."""
    import tensorrt as trt

    class Log(trt.ILogger):
        last = "no reason given"

        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # the bindings refuse super()

        def log(self, severity, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.last = message

    return Log()


def create(kind: type):
    """A Builder or Runtime. Raises InputError where TensorRT gives none, as without a GPU or with an old driver."""
    try:
        return kind(log())
    except TypeError as error:  # what pybind11 makes of a null pointer
        raise InputError(
            f"TensorRT cannot start its {kind.__name__} ({log().last}), so check that nvidia-smi works"
        ) from error


def progress_monitor(show: Callable[[str], None]):
    """An object for ``config.progress_monitor`` that calls ``show`` with percents; None before TensorRT 10."""
    import tensorrt as trt

    if not hasattr(trt, "IProgressMonitor"):
        return None

    class Monitor(trt.IProgressMonitor):
        """TensorRT calls from several threads; a phase is one nested piece of work that knows its number of steps."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            show(f"{phase_name}, {100 * step // max(self.steps.get(phase_name, 1), 1)} %")
            return True  # False would cancel the build

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

    return Monitor()


def numpy_type(path: object, dtype) -> type:
    """The numpy type of a TensorRT tensor type. Raises InputError for those without one, such as bfloat16."""
    import tensorrt as trt

    try:
        return trt.nptype(dtype)
    except TypeError as error:
        raise InputError(f"{path}: has an input or output of type {dtype.name}; export it with float32") from error


def version() -> str:
    """The version of the bindings, such as 10.3.0."""
    import tensorrt as trt

    return re.match(r"[\w.]+", trt.__version__)[0]


def profiler():
    """An object for ``context.profiler``; its ``runs`` has the ms by layer of each inference."""
    import tensorrt as trt

    class Profiler(trt.IProfiler):
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.runs: list[dict[str, float]] = []

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            if not self.runs or layer_name in self.runs[-1]:  # the first layer again: the next inference
                self.runs.append({})
            self.runs[-1][layer_name] = ms

    return Profiler()
