"""PyTorch's translations of operators to ONNX, read once for all exports of a process.

`torch.onnx.export` reads them anew each time, from the source of some 500 functions. This is half the time that the
export of a small network takes. The translations are in a class that is not public: where it is another one, exports
take longer, and give the same.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Iterator
from typing import Any

_MODULE, _CLASS, _READ = "torch.onnx._internal.exporter._registration", "ONNXRegistry", "from_torchlib"


@contextlib.contextmanager
def kept_translations() -> Iterator[None]:
    """Within the block, exports share the translations that the first export read. They must not add any."""
    registry = _registry()
    read = vars(registry).get(_READ) if registry else None
    if registry is None or not isinstance(read, classmethod):
        yield
        return
    setattr(registry, _READ, staticmethod(functools.partial(_read_once, registry, read)))
    try:
        yield
    finally:
        setattr(registry, _READ, read)


def _registry() -> type | None:
    try:
        return getattr(importlib.import_module(_MODULE), _CLASS, None)
    except ImportError:
        return None


@functools.cache
def _read_once(registry: type, read: Any, **given: int) -> object:
    return read.__get__(None, registry)(**given)
