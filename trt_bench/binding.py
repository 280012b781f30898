"""The Python bindings of TensorRT, 8.6 to 11, and of TensorRT-RTX: found, and what all versions of them share.

Versions differ, so names are probed.
"""

import functools
import importlib
import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

from layer_folding.bench_results import TITLES, RuntimeName
from layer_folding.errors import InputError

# The names that the Python module can have. The wheels of TensorRT-RTX bring the second, its package the first.
MODULES: dict[RuntimeName, tuple[str, ...]] = {
    "tensorrt": ("tensorrt",),
    "tensorrt-rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
}
# Of TensorRT's many warnings, those that say why an engine is slow or runs elsewhere than it should.
WORTH_KNOWING = re.compile(r"memory|workspace|DLA|GPU|device|fall(?:ing|s)? ?back|not supported|tactic", re.IGNORECASE)
LONGEST = 300  # letters of a message
# What surrounds an error: lines that only follow from it, the place in TensorRT's own sources, and who raised it.
ECHO = re.compile(r"^\[checkMacros|Output shape can not be computed|^Invalid Node - ")
PLACE = re.compile(r"\[\w+\.cpp:\d+: \w+\] |\.? In \w+ at /\S+:\d+")
RAISER = re.compile(r"^\w+::\w+: Error Code \d+: [\w ]+\((.*)\)$")
LAYERS = "Layers:"  # begins the list of an engine's layers in the build log of TensorRT-RTX


class NotInstalled(InputError):
    """The bindings are not there; its text is a clause."""


@functools.cache
def find(runtime: RuntimeName) -> "Binding":
    """The bindings of a runtime. Raises InputError, with a clause, where they are not installed or do not import."""
    for name in MODULES[runtime]:
        try:
            return Binding(runtime, importlib.import_module(name))
        except (ImportError, OSError) as error:
            if not (isinstance(error, ModuleNotFoundError) and error.name == name):
                raise InputError(f"{TITLES[runtime]} cannot be imported ({one_line(str(error))})") from error
    raise NotInstalled(f"{TITLES[runtime]} is not installed")


class Binding:
    """The Python module of a runtime, and the one logger that the module takes in a process."""

    def __init__(self, runtime: RuntimeName, trt: ModuleType):
        self.runtime, self.title, self.trt = runtime, TITLES[runtime], trt
        self.version = str(trt.__version__).partition("+")[0]  # such as 10.3.0
        self.log = _log(trt)

    @property
    def builds_without_gpu(self) -> bool:
        """Whether engines are built for named compute capabilities, and their kernels chosen where they run."""
        return hasattr(self.trt, "ComputeCapability")

    def create(self, kind: type) -> Any:
        """A Builder or Runtime. Raises InputError where TensorRT gives none, as without a GPU or with an old driver."""
        try:
            return kind(self.log)
        except TypeError as error:  # what pybind11 makes of a null pointer
            raise InputError(
                f"{self.title} cannot start its {kind.__name__} ({self.log.last}), so check that nvidia-smi works"
            ) from error

    def numpy_type(self, path: object, dtype: Any) -> Any:
        """The numpy type of a tensor type. Raises InputError for those without one, such as bfloat16."""
        try:
            return self.trt.nptype(dtype)
        except TypeError as error:
            raise InputError(f"{path}: has an input or output of type {dtype.name}; export it with float32") from error


def one_line(text: str) -> str:
    """A message of TensorRT as one line, without what surrounds it."""
    lines = [RAISER.sub(r"\1", PLACE.sub("", line.strip())) for line in text.splitlines() if not ECHO.search(line)]
    return " ".join(" ".join(lines).split())[:LONGEST]


def _log(trt: ModuleType) -> Any:
    class Log(trt.ILogger):  # type: ignore[name-defined]
        """Keeps the last error, the warnings that are worth knowing, and the list of layers of the last build."""

        last = "no reason given"
        layers = ""
        warnings: list[str]

        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # the bindings refuse super()
            self.warnings = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                if not ECHO.search(message):
                    self.last = one_line(message)
            elif severity == trt.ILogger.Severity.WARNING:
                text = one_line(message)
                if WORTH_KNOWING.search(message) and text not in self.warnings:
                    self.warnings.append(text)
            elif message.startswith(LAYERS):
                self.layers = message

    return Log()


def progress_monitor(trt: ModuleType, show: Callable[[str], None], cancelled: Callable[[], bool]) -> Any:
    """An object for ``config.progress_monitor``; None before TensorRT 10.

    It calls ``show`` with percents, and ends the build when ``cancelled`` says so.
    """
    if not hasattr(trt, "IProgressMonitor"):
        return None

    class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined]
        """TensorRT calls from several threads; a phase is one nested piece of work that knows its number of steps."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            show(f"{phase_name}, {100 * step // max(self.steps.get(phase_name, 1), 1)} %")
            return not cancelled()

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

    return Monitor()


def profiler(trt: ModuleType) -> Any:
    """An object for ``context.profiler``; its ``runs`` has the ms by layer of each inference."""

    class Profiler(trt.IProfiler):  # type: ignore[name-defined]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.runs: list[dict[str, float]] = []

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            if not self.runs or layer_name in self.runs[-1]:  # the first layer again: the next inference
                self.runs.append({})
            self.runs[-1][layer_name] = ms

    return Profiler()
