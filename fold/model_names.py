"""Networks by name: ours, torchvision's and timm's, and code of the caller's own where the caller names it.

    resnet20                 one of ours, in full layer_folding:resnet20
    torchvision:resnet50     in full torchvision.models:resnet50
    timm:mobilenetv2_100
    onnx:model.onnx          the network in an ONNX file, with its weights
    mypackage.nets:small     the function small in mypackage/nets.py

A file can ask for the first four. The last is imported only if the caller says that its code is to be trusted.
"""

import difflib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from layer_folding.errors import InputError

from . import models


@dataclass(frozen=True)
class _Library:
    """``build(module, name, arguments)``, and the arguments that it takes; None where each network has its own.

    Others would let a file have weights downloaded, or read from where it likes.
    """

    build: Callable[[ModuleType, str, Mapping[str, Any]], nn.Module]
    arguments: frozenset[str] | None = None


_OURS, _ONNX = "layer_folding", "onnx"
_LIBRARIES = {
    _OURS: _Library(lambda module, name, arguments: module.build(name, **arguments)),
    "torchvision.models": _Library(
        lambda module, name, arguments: _of_torchvision(module, name)(**arguments),
        frozenset({"num_classes", "image_size", "init_weights"}),
    ),
    "timm": _Library(
        lambda module, name, arguments: module.create_model(_known(name, module.list_models()), **arguments),
        frozenset({"num_classes", "in_chans", "img_size"}),
    ),
    _ONNX: _Library(lambda module, name, arguments: _onnx_in().rebuild(**arguments), frozenset({"graph"})),
}


def resolve(spec: str) -> str:
    """``spec`` in full, "module:name"."""
    if ":" not in spec:
        return f"{_OURS}:{spec}"
    return spec.replace("torchvision:", "torchvision.models:", 1) if spec.startswith("torchvision:") else spec


def weights_file(spec: str) -> Path | None:
    """The ONNX file whose network ``spec`` means, and which has its weights; None for another network."""
    library, _, name = spec.partition(":")
    return Path(name) if library == _ONNX and name else None


def _onnx_in() -> ModuleType:
    """What reads ONNX files, which other networks do not need."""
    return importlib.import_module(".onnx_in", __package__)


def build(spec: str, arguments: Mapping[str, Any], trust: str | None = None) -> nn.Module:
    """The network ``spec`` with fresh weights.

    Nothing outside of our own models, ``torchvision.models`` and ``timm`` is imported, whatever a file asks for, but
    what the caller trusts: ``trust`` is its spec, "module:name". Raises InputError.
    """
    module, name = _import(spec, trust)
    library = _LIBRARIES.get(resolve(spec).partition(":")[0])
    try:
        if library is None:
            model = getattr(module, name)(**arguments)
            if not isinstance(model, nn.Module):
                raise ValueError(f"returns a {type(model).__name__}, not a network")
            return model
        refused = set(arguments) - (library.arguments or set(arguments))
        if refused:
            raise ValueError(f"argument {', '.join(sorted(refused))} cannot be given here")
        return library.build(module, name, arguments)
    except ModuleNotFoundError as error:
        raise InputError(f"model {spec!r}: {error.name} is not installed; pip install {error.name}") from error
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        own = library is None and isinstance(error, TypeError)
        remedy = "; its arguments need defaults, as in num_classes=10" if own else ""
        raise InputError(f"model {spec!r}: {error}{remedy}") from error


def arguments_for(
    spec: str, shape: Sequence[int], classes: int | None = None, trust: str | None = None
) -> dict[str, Any]:
    """What `build` is to be given for images ``shape`` [C, ..., size], and for ``classes`` if there are any: those of
    ``num_classes``, ``in_channels`` (``in_chans``) and ``size`` that the network takes. Raises InputError as it does.
    """
    facts = {"num_classes": classes, "in_channels": shape[0], "in_chans": shape[0], "size": shape[-1]}
    module, name = _import(spec, trust)
    library = _LIBRARIES.get(resolve(spec).partition(":")[0])
    takes: Collection[str]
    file = weights_file(spec)
    if file is not None:
        return {"graph": _onnx_in().read_network(file).graph}
    if library is None:
        takes = inspect.signature(getattr(module, name)).parameters
    else:
        takes = library.arguments or inspect.signature(module.find(name)).parameters
    return {key: value for key, value in facts.items() if key in takes and value is not None}


def _import(spec: str, trust: str | None) -> tuple[ModuleType, str]:
    path, _, name = resolve(spec).partition(":")
    if path not in _LIBRARIES and spec != trust:
        raise InputError(
            f"model {spec!r}: not from {', '.join(_LIBRARIES)}; if you trust that code, name it: --trust {spec} (in "
            f"Python trust={spec!r})"
        )
    try:
        module = _module(path)
    except (ModuleNotFoundError, ValueError) as error:
        missing = error.name if path in _LIBRARIES and isinstance(error, ModuleNotFoundError) else None
        remedy = f"pip install {missing}" if missing else "give it as package.module:function"
        raise InputError(f"model {spec!r}: {error}; {remedy}") from error
    if path not in _LIBRARIES and not callable(getattr(module, name, None)):
        raise InputError(f"model {spec!r}: {module.__file__} has no function {name!r}; give one that returns a network")
    return module, name


def _module(path: str) -> ModuleType:
    """The module ``path``. Code of the caller's own may stand in the current folder, as with `python -m`."""
    if path == _OURS:
        return models
    if path not in _LIBRARIES and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # at the end, where the folder hides no other module
    return importlib.import_module(path)


def _of_torchvision(module: ModuleType, name: str) -> Callable[..., nn.Module]:
    """What builds a network of torchvision; one with a backbone would have its weights downloaded."""
    builder = module.get_model_builder(_known(name, module.list_models()))
    takes = inspect.signature(builder).parameters
    return partial(builder, weights_backbone=None) if "weights_backbone" in takes else builder


def _known(name: str, names: Sequence[str]) -> str:
    if name.partition(".")[0] not in names:  # timm's weights have a tag after the name
        close = difflib.get_close_matches(name, names, n=1)
        raise ValueError("no such network" + (f", did you mean {close[0]!r}?" if close else ""))
    return name
