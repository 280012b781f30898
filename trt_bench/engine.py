"""The engine of an ONNX file: from the cache or built, and audited either way."""

import json
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from layer_folding import records
from layer_folding.bench_results import BuildNotes, EngineRecord
from layer_folding.errors import InputError

from . import audit, building, cache, engine_layers, interruption, onnx_header, onnx_nodes
from . import device as host
from .binding import Binding
from .compiled_kernels import CompiledKernels
from .cuda import Gpu
from .runtimes import Options


@dataclass(frozen=True)
class Engine:
    """A deserialised engine."""

    runtime: Any  # trt.Runtime, which must not go before the engine
    engine: Any  # trt.ICudaEngine
    layers: list[engine_layers.Layer]
    built: EngineRecord
    kernels: CompiledKernels | None = None  # TensorRT-RTX

    def context(self) -> Any:
        """A new execution context; None where TensorRT gives none."""
        return self.engine.create_execution_context() if self.kernels is None else self.kernels.context()

    def warm(self) -> None:
        """To be called after the first inference: keeps what was compiled for it."""
        if self.kernels is not None:
            self.kernels.keep()


# An engine is loaded once for all batch sizes, and goes with the last network that runs on it.
_open: WeakValueDictionary[Hashable, Engine] = WeakValueDictionary()


def open_engine(binding: Binding, path: str | Path, options: Options, gpu: Gpu) -> Engine:
    """The engine of an ONNX file on ``gpu``: the one that is open, from the cache, or built.

    Raises InputError if TensorRT rejects the file, and CheckError if the engine lacks the file's precision.
    """
    key = (binding, str(path), options, gpu)
    opened = _open.get(key)
    if opened is None:
        with interruption.deferred(options.progress):
            opened = _open[key] = _load_or_build(binding, _Order.of(binding, path, options, gpu))
    return opened


def build_engine(binding: Binding, path: str | Path, options: Options, capability: str) -> EngineRecord:
    """Build the engine of an ONNX file for GPUs of ``capability``, such as 8.6, into the cache. Needs no GPU.

    `open_engine` finds the engine there on a machine with such a GPU. Raises InputError if TensorRT-RTX rejects the
    file or the capability, and CheckError if the engine lacks the file's precision.
    """
    order = _Order.of(binding, path, options, capability)
    begin = time.perf_counter()
    made = building.build(binding, path, order.onnx, order.how, progress=options.progress)
    seconds = time.perf_counter() - begin
    built = order.record(binding, made.plan, made.layers, made.notes, seconds)
    order.keep(made.plan, made.notes)
    return built


@dataclass(frozen=True)
class _Order:
    """Which engine is wanted, and the names under which the cache has it."""

    path: str | Path
    onnx: bytes
    how: building.BuildOptions
    options: Options
    name: str
    timings: str  # the times of kernels, which all engines of a machine share
    kept: cache.Cache

    @classmethod
    def of(cls, binding: Binding, path: str | Path, options: Options, target: Gpu | str) -> "_Order":
        """The order for a GPU, or for all that have a compute capability."""
        precision = onnx_header.read(path).precision or "fp32"
        capability = target if isinstance(target, str) else target.compute_capability
        how = building.BuildOptions(
            options.batches,
            precision,
            options.workspace_mib,
            options.level,
            options.dla,
            capability if binding.builds_without_gpu else None,
        )
        builder = f"{binding.title} {binding.version}"
        machine = building.Machine(builder, capability)
        if not binding.builds_without_gpu and not isinstance(target, str):
            where = (target.name, host.driver(), target.cuda_driver, host.board(), host.power_mode())
            machine = building.Machine(builder, capability, *where)
        onnx = Path(path).read_bytes()
        return cls(
            path,
            onnx,
            how,
            options,
            name=building.key(onnx, how, machine),
            timings=f"timing-{building.key(b'', building.BuildOptions(), machine)}.cache",
            kept=cache.Cache(options.cache or cache.default_folder()),
        )

    def record(
        self,
        binding: Binding,
        plan: bytes,
        layers: Sequence[engine_layers.Layer],
        notes: BuildNotes,
        seconds: float | None,
    ) -> EngineRecord:
        """What is known of an engine; ``seconds`` is the time of its build, None from the cache.

        Raises CheckError if the engine lacks the precision of the file.
        """
        precision = self.how.precision
        counts = audit.precisions(layers)
        wanted = onnx_nodes.weighted(onnx_nodes.parse(self.onnx), precision)
        weighted = audit.weighted(layers, precision, wanted)
        strongly_typed = building.strongly_typed(binding.trt, self.how)
        # the layers that are missing are fused into other kernels; there they have the types that were parsed
        fused = not weighted or sum(kind.all for kind in weighted) < sum(wanted.values())
        if not (fused and strongly_typed):
            audit.check(self.path, precision, counts, weighted)
        return EngineRecord(
            engine=str(self.kept.folder / f"{self.name}.plan"),
            engine_bytes=len(plan),
            from_cache=seconds is None,
            build_s=seconds or 0.0,
            strongly_typed=strongly_typed,
            layers_by_precision=counts,
            precision=precision,
            weighted_layers=weighted,
            notes=notes,
        )

    def kernels(self, binding: Binding, engine: Any) -> CompiledKernels | None:
        """The kernels that the engine compiles here; None where the engine has its kernels in it."""
        if not binding.builds_without_gpu:
            return None
        return CompiledKernels(binding.trt, engine, self.kept, f"{self.name}.kernels")

    def keep(self, plan: bytes, notes: BuildNotes) -> None:
        """Put an engine that has passed into the cache."""
        self.kept.store(f"{self.name}.notes", json.dumps(records.as_json(notes)).encode())
        self.kept.store(f"{self.name}.plan", plan)


def _load_or_build(binding: Binding, order: _Order) -> Engine:
    binding.log.warnings.clear()
    runtime = binding.create(binding.trt.Runtime)
    if order.how.dla is not None:
        runtime.DLA_core = order.how.dla
    plan = order.kept.load(f"{order.name}.plan") or b""
    engine = runtime.deserialize_cuda_engine(plan) if plan else None
    notes = _notes(order.kept.load(f"{order.name}.notes") or b"{}")
    if engine is not None:
        layers = _inspect(binding, engine)
        built = order.record(binding, plan, layers, _warned(notes, binding), None)
        return Engine(runtime, engine, layers, built, order.kernels(binding, engine))
    begin = time.perf_counter()  # it is not there, damaged, or refused
    timings = order.kept.load(order.timings) or b""
    made = building.build(binding, order.path, order.onnx, order.how, timings, order.options.progress)
    seconds = time.perf_counter() - begin
    if made.timing_cache:
        order.kept.store(order.timings, made.timing_cache)
    engine = runtime.deserialize_cuda_engine(made.plan)
    if engine is None:
        raise cannot_run(binding, order.path)
    layers = _inspect(binding, engine)
    built = order.record(binding, made.plan, layers, _warned(made.notes, binding), seconds)
    order.keep(made.plan, made.notes)
    return Engine(runtime, engine, layers, built, order.kernels(binding, engine))


def _notes(content: bytes) -> BuildNotes:
    """The notes that were kept with an engine; none, where they are of another version."""
    try:
        return records.decode(BuildNotes, records.parse_json(content.decode()))
    except ValueError:
        return BuildNotes()


def _warned(notes: BuildNotes, binding: Binding) -> BuildNotes:
    """``notes`` with what TensorRT warned of while it loaded the engine."""
    return replace(notes, warnings=tuple(dict.fromkeys((*notes.warnings, *binding.log.warnings))))


def cannot_run(binding: Binding, path: str | Path) -> InputError:
    """The error for an engine that TensorRT built or kept, but does not load."""
    return InputError(
        f"{path}: {binding.title} cannot run its engine ({binding.log.last}); free GPU memory or export it again"
    )


def _inspect(binding: Binding, engine: Any) -> list[engine_layers.Layer]:
    """What TensorRT's inspector says of each layer."""
    inspector = engine.create_engine_inspector()
    information = inspector.get_engine_information(binding.trt.LayerInformationFormat.JSON)
    return engine_layers.of_inspector(information)
