"""Time ONNX networks against each other: files in, a `BenchResult` and the traces behind it out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from layer_folding import stats
from layer_folding.bench_results import BenchResult, ModelRecord, NetworkRecord, Parts
from layer_folding.bench_settings import BenchSettings
from layer_folding.errors import CheckError, InputError
from layer_folding.evalset import EvalSet, read_evalset
from layer_folding.stats import Comparison

from . import inference_times, monitor, onnx_costs, profile, scoring, timer
from .runtimes import Loaded, Options, Runtime

Progress = Callable[[str], None]
# How often a network is loaded while it is timed on a CPU, where its place in memory counts: an unlucky one of several
# does not decide. On a GPU it is loaded once: loading takes long there.
LOADS = 3


@dataclass(frozen=True)
class Bench:
    """What to measure besides latency, and for how long."""

    seconds: float = 3.0  # of timing for each network and batch size
    data: str | None = None  # an eval.npz to measure accuracy on
    profile: bool = False  # a second run with the profiler on
    seed: int = 0


@dataclass(frozen=True)
class Measured:
    """A measurement, and the trace of each of its models (see `trt_bench.inference_times`)."""

    result: BenchResult
    traces: tuple[np.ndarray, ...]


def measure(
    paths: Sequence[str | Path],
    runtime: Runtime,
    reason: str = "",
    options: Options | None = None,
    what: Bench | None = None,
    progress: Progress = lambda text: None,
) -> Measured:
    """Load, check and time the ONNX files ``paths`` interleaved, for each batch size of ``options``.

    The first is the baseline, each other one is compared with it. Before any timing, raises InputError for what cannot
    be used and CheckError for a network that computes infinities or NaN.
    """
    task = _Task(tuple(map(str, paths)), _names(paths), runtime, options or Options(), what or Bench(), progress)
    images = _labelled(task.what.data)
    networks = [onnx_costs.network(path) for path in task.paths]
    loaded = {batch: task.load(batch) for batch in task.options.batches}
    first = loaded[task.options.batches[0]]
    accuracies = [task.accuracy(place, model, images) for place, model in enumerate(first)]
    device = runtime.device(task.options)
    watch, rails = monitor.Monitor(device), monitor.power(device)
    models: list[ModelRecord] = []
    comparisons: list[Comparison] = []
    traces: list[np.ndarray] = []
    loads = LOADS if device.kind == "cpu" else 1
    for batch in task.options.batches:
        ready, timing = _timed(task, batch, loaded.pop(batch), loads, watch)
        for place, model in enumerate(ready):
            record = _record(task, place, model, batch, timing, networks[place])
            models.append(
                replace(
                    record,
                    accuracy=accuracies[place],
                    parts_ms=_parts(timing.traces[place]) if device.kind == "gpu" else None,
                    energy=monitor.energy(model.repeat, timing.conditions.iterations_per_block[place], rails),
                    profile=profile.measure(model, task.progress) if task.what.profile else None,
                )
            )
            model.close()
        comparisons += _comparisons(task, batch, timing)
        traces += timing.traces
    result = BenchResult(
        runtime=runtime.name,
        device=replace(device, while_timed=watch.summary()),
        settings=BenchSettings(
            batches=task.options.batches,
            input="standard normal float32, the same for all networks",
            seed=task.what.seed,
            data=None if images is None else str(task.what.data),
            images=len(images.images) if images else None,
            bootstrap_resamples=stats.RESAMPLES,
            loads=loads,
            **vars(timing.conditions),
            **vars(first[0].settings),
        ),
        models=tuple(models),
        comparisons=tuple(comparisons),
        reason=reason,
    )
    return Measured(result, tuple(traces))


def _labelled(path: str | Path | None) -> EvalSet | None:
    """The images of ``path``; None where they have no labels to measure an accuracy by."""
    images = read_evalset(path) if path else None
    return None if images is None or images.labels is None else images


@dataclass(frozen=True)
class _Task:
    """What is measured and how."""

    paths: tuple[str, ...]
    names: tuple[str, ...]
    runtime: Runtime
    options: Options
    what: Bench
    progress: Progress

    def load(self, batch: int) -> list[Loaded]:
        """All networks at one batch size, with the same random input, after a look at what they make of it.

        Where one cannot run as a CUDA graph, none does: else the graph would be compared, and not the networks.
        """
        models = self._load(batch, self.options)
        obstacles = [m.settings.cuda_graph_obstacle for m in models if m.settings.cuda_graph_obstacle]
        if obstacles and len(obstacles) < len(models):
            for model in models:
                model.close()
            return self._load(batch, replace(self.options, cuda_graph=False, cuda_graph_obstacle=obstacles[0]))
        return models

    def _load(self, batch: int, options: Options) -> list[Loaded]:
        models: list[Loaded] = []
        for path in self.paths:
            self.progress(f"loading {path}")
            models.append(self.runtime.load(path, batch, options))
            if models[-1].input_shape != models[0].input_shape:
                raise InputError(
                    f"{path}: takes input {list(models[-1].input_shape)}, but {self.paths[0]} takes "
                    f"{list(models[0].input_shape)}; give networks of the same task"
                )
        example = np.random.default_rng(self.what.seed).standard_normal(models[0].input_shape, dtype=np.float32)
        for model, path in zip(models, self.paths, strict=True):
            if not np.isfinite(model.infer(example)).all():
                raise CheckError(f"{path}: computes NaN or infinity from random input; export it in a higher precision")
            model.bind(example)
        return models

    def accuracy(self, place: int, model: Loaded, images: EvalSet | None) -> float | None:
        """The accuracy of the network at ``place``; None without images."""
        return None if images is None else scoring.accuracy(model, images, self.paths[place], self.progress)

    def tell(self, text: str) -> None:
        """Progress of all networks together."""
        self.progress(text and f"{', '.join(self.names)}: {text}")


def _timed(
    task: _Task, batch: int, models: list[Loaded], loads: int, between: Callable[[], None]
) -> tuple[list[Loaded], timer.Timing]:
    """``models`` timed interleaved, loaded anew on the way until they were ``loads`` times; the last load of them."""
    seconds = task.what.seconds / loads
    parts = [timer.measure([m.repeat for m in models], seconds, progress=task.tell, between=between)]
    for _ in range(loads - 1):
        models = task.load(batch)
        parts.append(timer.measure([m.repeat for m in models], seconds, progress=task.tell, between=between))
    return models, timer.joined(parts)


def _record(
    task: _Task, place: int, model: Loaded, batch: int, timing: timer.Timing, network: NetworkRecord
) -> ModelRecord:
    """What is known of every network that was timed; the rest depends on the device and on what was asked for."""
    samples, trace = timing.samples_ms[place], timing.traces[place]
    return ModelRecord(
        name=task.names[place],
        path=task.paths[place],
        precision=network.precision or "unknown",
        batch=batch,
        latency_ms=stats.summary(samples, inference_times.latency(trace), task.what.seed),
        samples_ms=tuple(samples),
        accuracy=None,
        input_shape=model.input_shape,
        host_ms=float(np.median(timing.host_ms[place])),
        network=network,
        engine=model.built,
    )


def _comparisons(task: _Task, batch: int, timing: timer.Timing) -> list[Comparison]:
    baseline, *others = timing.samples_ms
    compared = [stats.compare(baseline, samples, task.what.seed) for samples in others]
    return [
        Comparison(**vars(speedup), baseline=task.names[0], candidate=name, batch=batch)
        for name, speedup in zip(task.names[1:], compared, strict=True)
    ]


def _parts(trace: np.ndarray) -> Parts:
    return Parts(**{name: stats.spread(inference_times.part(trace, name)) for name in inference_times.PARTS})


def _names(paths: Sequence[str | Path]) -> tuple[str, ...]:
    names = tuple(Path(path).stem for path in paths)
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{name}: two networks have this file name; rename one, results go by file name")
    return names
