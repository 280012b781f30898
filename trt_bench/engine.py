"""The engine of an ONNX file: from the cache or built, and audited either way."""

import functools
import time
from dataclasses import dataclass
from pathlib import Path

from trt_bench import audit, binding, build, cache, metadata
from trt_bench import device as host
from trt_bench.errors import InputError
from trt_bench.runtimes import Options


@dataclass(frozen=True)
class Engine:
    """A deserialised engine."""

    runtime: object  # trt.Runtime, which must not go before the engine
    engine: object  # trt.ICudaEngine
    layers: list[dict]  # as the inspector tells them
    built: dict  # the record for bench.json


@functools.cache  # an engine is loaded once for all batch sizes, and never goes before the contexts that it made
def open_engine(path: str | Path, options: Options, gpu) -> Engine:
    """The engine of an ONNX file on ``gpu`` (a `trt_bench.cuda` object), from the cache or built.

    Raises InputError if TensorRT rejects the file, and CheckError if the engine lacks the file's precision.
    """
    import tensorrt as trt

    precision = metadata.read(path).get("precision", "fp32")
    how = build.BuildOptions(options.batches, precision, options.workspace_mib, options.level, options.dla)
    onnx = Path(path).read_bytes()
    machine = {"tensorrt": binding.version(), **host.gpu_identity(gpu)}
    name = f"{build.key(onnx, how, machine)}.plan"
    kept = cache.Cache(options.cache or cache.default_folder())
    runtime = binding.create(trt.Runtime)
    if options.dla is not None:
        runtime.DLA_core = options.dla
    plan = kept.load(name)
    engine = runtime.deserialize_cuda_engine(plan) if plan else None
    from_cache, seconds = engine is not None, 0.0
    if not from_cache:  # not there, damaged, or refused
        timings = f"timing-{build.key(b'', build.BuildOptions(), machine)}.cache"
        begin = time.perf_counter()
        plan, timing_cache = build.build(path, onnx, how, kept.load(timings) or b"", options.progress)
        seconds = time.perf_counter() - begin
        kept.store(timings, timing_cache)
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise cannot_run(path)
    layers = _inspect(engine)
    counts = audit.precisions(layers)
    audit.check(path, precision, counts)
    if not from_cache:  # only an engine that has passed is kept
        kept.store(name, plan)
    built = {
        "engine": str(kept.folder / name),
        "engine_bytes": len(plan),
        "from_cache": from_cache,
        "build_s": seconds,
        "strongly_typed": build.strongly_typed(how),
        "layers_by_precision": counts,
    }
    return Engine(runtime, engine, layers, built)


def cannot_run(path: str | Path) -> InputError:
    """The error for an engine that TensorRT built or kept, but does not load."""
    return InputError(
        f"{path}: TensorRT cannot run its engine ({binding.log().last}); free GPU memory or export it again"
    )


def _inspect(engine) -> list[dict]:
    """What TensorRT's inspector says of each layer."""
    import tensorrt as trt

    inspector = engine.create_engine_inspector()
    return audit.layers(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
