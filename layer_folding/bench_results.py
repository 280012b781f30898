"""bench.json: what a measurement of networks against each other found, and the one place that reads and writes it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from . import files, records
from .bench_settings import BenchSettings
from .device_records import DeviceRecord
from .errors import InputError
from .prediction_records import Prediction
from .stats import Comparison, Latency, Spread, Verdict

SCHEMA = 1
RuntimeName = Literal["onnxruntime", "tensorrt", "tensorrt-rtx"]
TITLES: dict[RuntimeName, str] = {
    "onnxruntime": "ONNX Runtime",
    "tensorrt": "TensorRT",
    "tensorrt-rtx": "TensorRT-RTX",
}
REMEDY = "measure again with trt_bench bench"


@dataclass(frozen=True)
class NetworkRecord:
    """What an ONNX file says of its network; None where the file does not say it."""

    depth: int | None = None  # weighted layers on the longest path
    parameters: int | None = None
    macs: int | None = None
    accuracy: float | None = None  # at export
    precision: str | None = None

    def __post_init__(self) -> None:
        for value in (self.depth, self.parameters, self.macs, self.accuracy):
            if value is not None and value < 0:
                raise ValueError(f"{value} is below 0")


@dataclass(frozen=True)
class Parts:
    """Where the time of one inference on a GPU goes, ms: launching, copy to the GPU, computation, copy back."""

    enqueue: Spread
    h2d: Spread
    compute: Spread
    d2h: Spread


@dataclass(frozen=True)
class EnergyRecord:
    """Energy of one inference, mJ by rail; ``whole`` names the rails that add up to the whole."""

    whole: tuple[str, ...]
    whole_mj: float
    rails_mj: dict[str, float]
    rails_w: dict[str, float]
    inferences: int


@dataclass(frozen=True)
class ProfiledLayer:
    """A layer as the runtime names it, the PyTorch modules that it computes, and its time in ms (median and mean)."""

    name: str
    modules: tuple[str, ...]
    ms: float
    mean_ms: float


@dataclass(frozen=True)
class Profile:
    """Median ms by layer and by module, in the order that they run, from a second run with the profiler on."""

    note: str
    runs: int
    layers: tuple[ProfiledLayer, ...]
    modules: dict[str, float]


@dataclass(frozen=True)
class WeightedLayers:
    """Of ``all`` layers of a kind (convolution or matrix product), those that run in the precision that was asked for.

    ``wanted`` is how many of them the ONNX file has in that precision.
    """

    kind: str
    all: int
    wanted: int
    as_asked: int


@dataclass(frozen=True)
class ParsedNetwork:
    """What TensorRT's parser made of an ONNX file.

    ``pairs`` is the number of DequantizeLinear nodes; ``alone`` names those that no convolution, matrix product
    or sum reads: they cost time and make nothing faster.
    """

    weighted_layers: tuple[WeightedLayers, ...]
    pairs: int
    alone: tuple[str, ...] = ()


@dataclass(frozen=True)
class BuildNotes:
    """What TensorRT told while it built an engine.

    ``warnings`` are those about memory, devices and fallback; ``dla_layers`` are the layers of the network that the
    DLA can take, and all of them, where the engine is for a DLA; ``parsed`` is None where an early version kept it.
    """

    warnings: tuple[str, ...] = ()
    dla_layers: tuple[int, int] | None = None
    parsed: ParsedNetwork | None = None


@dataclass(frozen=True)
class EngineRecord:
    """A TensorRT engine: its file, and what its layers run in, as TensorRT's inspector tells."""

    engine: str
    engine_bytes: int
    from_cache: bool
    build_s: float
    strongly_typed: bool
    layers_by_precision: dict[str, int]
    precision: str = "unknown"  # that was asked for
    weighted_layers: tuple[WeightedLayers, ...] = ()  # empty where the inspector tells of none
    notes: BuildNotes = field(default_factory=BuildNotes)


@dataclass(frozen=True)
class ModelRecord:
    """A network that was timed at one batch size. A sample is the median latency of a block of inferences, ms."""

    name: str
    path: str
    precision: str
    batch: int
    latency_ms: Latency
    samples_ms: tuple[float, ...]
    accuracy: float | None  # measured here; None: not measured
    input_shape: tuple[int, ...] = ()
    host_ms: float | None = None  # of an inference by the host's clock
    parts_ms: Parts | None = None
    energy: EnergyRecord | None = None
    profile: Profile | None = None
    network: NetworkRecord = field(default_factory=NetworkRecord)
    engine: EngineRecord | None = None

    def __post_init__(self) -> None:
        if not self.samples_ms or min(self.samples_ms) <= 0:
            raise ValueError("samples_ms has none, or one that is not above 0")
        if self.accuracy is not None and not 0 <= self.accuracy <= 1:
            raise ValueError(f"the accuracy {self.accuracy:.6g} is no fraction")
        if self.batch < 1:
            raise ValueError(f"the batch is {self.batch}")

    @property
    def known_accuracy(self) -> float | None:
        """The accuracy that was measured here, else the one that the file says."""
        return self.network.accuracy if self.accuracy is None else self.accuracy


@dataclass(frozen=True)
class BenchResult:
    """Networks timed against each other: the first of each batch size is the baseline of the others.

    ``runtime`` timed the ``models`` on ``device`` with these ``settings``; ``reason`` says why this runtime was chosen.
    ``comparisons`` has the speed-up of each network that is not a baseline, with its interval. ``prediction`` compares
    it with that of a plan, where one was given. All times are in milliseconds.
    """

    runtime: RuntimeName
    device: DeviceRecord
    settings: BenchSettings
    models: tuple[ModelRecord, ...]
    comparisons: tuple[Comparison, ...] = ()
    reason: str = ""  # for the runtime, a clause that starts with "because"
    prediction: Prediction | None = None

    def __post_init__(self) -> None:
        if not self.models:
            raise ValueError("there are no models")
        measured = {(model.name, model.batch) for model in self.models}
        if not self.comparisons and len({name for name, _ in measured}) > 1:
            raise ValueError("there are several models without a comparison")
        for comparison in self.comparisons:
            for name in (comparison.baseline, comparison.candidate):
                if (name, comparison.batch) not in measured:
                    raise ValueError(f"a comparison of {name} at batch {comparison.batch}, which was not measured")

    @property
    def comparison(self) -> Comparison | None:
        """The last comparison, which is the headline; None where one network was measured."""
        return self.comparisons[-1] if self.comparisons else None

    @property
    def speedup(self) -> float:
        """How often as fast the last network is as the first. Raises InputError where one network was measured."""
        return self._headline().speedup

    @property
    def ci95(self) -> tuple[float, float]:
        """The 95 % interval of ``speedup``."""
        return self._headline().ci95

    @property
    def verdict(self) -> Verdict:
        """Whether the last network is faster or slower than the first, or neither for sure."""
        return self._headline().verdict

    def _headline(self) -> Comparison:
        if self.comparison is None:
            raise InputError(f"{self.models[0].name}: was measured alone; a speed-up needs two ONNX files")
        return self.comparison

    def model(self, name: str, batch: int) -> ModelRecord:
        """The record of the network ``name`` at ``batch``. Raises KeyError where that was not measured."""
        return {(model.name, model.batch): model for model in self.models}[name, batch]


def save(path: str | Path, result: BenchResult) -> None:
    """Write ``result`` to ``path`` atomically."""
    files.write_json(path, to_json(result))


def to_json(result: BenchResult) -> dict[str, Any]:
    """What a bench.json holds."""
    content = {**records.encode(result, SCHEMA), "comparison": records.as_json(result.comparison)}
    if result.prediction is None:  # where there is one, it is an object
        del content["prediction"]
    return content


def load(path: str | Path, remedy: str = REMEDY) -> BenchResult:
    """Read a bench.json. Raises InputError if it is missing, no JSON, or not what ``bench`` writes."""
    return records.read(path, BenchResult, SCHEMA, remedy, _complete)


def _complete(content: dict[str, Any]) -> dict[str, Any]:
    """``content`` with what early files leave to the reader: a lone comparison, at the batch of the first model."""
    if "comparison" not in content:
        raise ValueError("comparison is missing")
    lone = content["comparison"]
    comparisons = content.get("comparisons", [] if lone is None else [lone])
    models = content.get("models")
    first = models[0] if isinstance(models, list) and models else None
    batch = {"batch": first["batch"]} if isinstance(first, dict) and "batch" in first else {}
    if isinstance(comparisons, list):
        comparisons = [{**batch, **each} if isinstance(each, dict) else each for each in comparisons]
    return {**content, "comparisons": comparisons}
