"""The kernels of a TensorRT-RTX engine, which are compiled on the machine that runs them, and kept between runs.

An engine of TensorRT has its kernels in it. TensorRT-RTX compiles them when a context is made, and again for each new
shape: before anything is timed, and not beside it.
"""

from types import ModuleType
from typing import Any

from .cache import Cache

SPECIALIZATION = "eager"  # the words of DynamicShapesKernelSpecializationStrategy


class CompiledKernels:
    """Makes the contexts of an engine, which share the kernels under ``name`` in the cache."""

    def __init__(self, trt: ModuleType, engine: Any, kept: Cache, name: str):
        self._engine, self._kept, self._name = engine, kept, name
        self._config = runtime_config = engine.create_runtime_config()
        runtime_config.dynamic_shapes_kernel_specialization_strategy = (
            trt.DynamicShapesKernelSpecializationStrategy.EAGER
        )
        runtime_config.cuda_graph_strategy = trt.CudaGraphStrategy.DISABLED  # we capture the graph ourselves
        self._compiled = compiled = runtime_config.create_runtime_cache()
        self._before = kept.load(name) or b""
        if self._before and not compiled.deserialize(self._before):  # of another GPU, driver or version
            self._before = b""
        runtime_config.set_runtime_cache(compiled)

    def context(self) -> Any:
        """A new execution context; None where TensorRT-RTX gives none."""
        engine = self._engine
        return engine.create_execution_context(self._config)

    def keep(self) -> None:
        """Put what was compiled so far into the cache. Raises OSError."""
        compiled = self._compiled
        content = bytes(compiled.serialize())
        if content != self._before:
            self._kept.store(self._name, content)
            self._before = content
