"""Weights from elsewhere: read without running what is in the file, and fitted to a network or refused by key."""

import os
import pickle
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from layer_folding.errors import InputError

Value = TypeVar("Value")
SUFFIXES = (".pt", ".pth", ".th", ".ckpt", ".safetensors")
SHOWN_KEYS = 4  # of each kind in a message about weights that do not match
# averaged weights first
_INSIDE = ("state_dict_ema", "model_ema", "params_ema", "ema", "state_dict", "model", "params")
_COUNTERS = ("n_averaged", "total_ops", "total_params")  # of AveragedModel, and of thop, which counts operations


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """The state dict in ``path``, on the CPU: ``.pt``, ``.pth``, ``.th`` and ``.ckpt`` (torch), ``.safetensors``, or
    ``.onnx``, for the network that was read from the file.

    Unwraps ``{"state_dict": ...}`` and the like, which of several on stderr; strips the prefix that wrappers such as
    DataParallel give to all names, and drops their counters. Nothing is unpickled but tensors and plain containers
    (``weights_only``). Raises InputError for a file that is missing, of another kind, corrupt, or holds anything else.
    """
    path = Path(path)
    if path.suffix.lower() == ".onnx":
        from ..onnx_in import load  # other weights do not need what it needs

        return dict(load(path).state_dict())
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"weights {path}: unknown suffix {path.suffix!r}; give one of {', '.join(SUFFIXES)}")
    if not os.path.isfile(path):
        problem = "is not a file" if os.path.exists(path) else "does not exist"
        raise InputError(f"weights {path}: {problem}; give the path of a weights file")
    state = _unwrapped(_read(path), path)
    if not isinstance(state, Mapping) or not state:
        raise InputError(f"weights {path}: holds no state dict; save model.state_dict()")
    stray = [str(key) for key, value in state.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if stray:
        raise InputError(f"weights {path}: {_some(stray)} is not a tensor with a name; save model.state_dict()")
    weights = {key: value for key, value in state.items() if key.rpartition(".")[2] not in _COUNTERS}
    for key, value in weights.items():
        obstacle = _obstacle(value)
        if obstacle:
            raise InputError(f"weights {path}: {key} {obstacle}; save an ordinary float model's state_dict()")
    return bare(weights)


def bare(weights: Mapping[str, Value]) -> dict[str, Value]:
    """``weights`` without what the names of all begin with: the name that a wrapper has for the network in it.

    DataParallel calls it ``module``, torch.compile ``_orig_mod``, and a LightningModule as its author likes.
    """
    while len(firsts := {key.partition(".")[0] for key in weights}) == 1 and all("." in key for key in weights):
        [first] = firsts
        weights = {key[len(first) + 1 :]: value for key, value in weights.items()}
    return dict(weights)


def _unwrapped(state: object, path: Path) -> object:
    seen: list[object] = []
    while isinstance(state, Mapping) and not any(state is outer for outer in seen):  # a file can hold a dict in itself
        seen.append(state)
        names = [name for name in _INSIDE if isinstance(state.get(name), Mapping)]
        others = [name for name, value in state.items() if name not in names and _is_state(value)]
        if len(names) + len(others) > 1 and names:
            print(f"note: weights {path}: takes {names[0]}, not {', '.join([*names[1:], *others])}", file=sys.stderr)
        if len(others) > 1 and not names:
            raise InputError(f"weights {path}: holds the weights {', '.join(others)}; save those that are meant alone")
        state = state[(names or others)[0]] if names or others else state
    return state


def _is_state(value: object) -> bool:
    """Whether ``value`` can be a state dict, whatever a file calls it."""
    return isinstance(value, Mapping) and bool(value) and all(isinstance(each, Tensor) for each in value.values())


def _obstacle(value: Tensor) -> str:
    """Why ``value`` is no tensor of ordinary numbers; "" where it is."""
    if value.is_meta:
        return "has no values (a meta tensor)"
    if value.is_quantized:
        return "is quantised"
    if value.layout != torch.strided:
        return f"is sparse ({value.layout})"
    if value.is_complex():
        return "is complex"
    return "" if value.float().isfinite().all() else "has NaN or infinite values"


def apply_weights(model: nn.Module, state_dict: Mapping[str, Tensor], path: str | Path) -> None:
    """Copy ``state_dict`` into ``model``; ``path`` is for the message. Every key and shape must match, but for the
    prefix of a wrapper, and weights that are floats must be floats in the file.

    BatchNorm's ``num_batches_tracked`` may be missing (PyTorch before 0.4.1 had none). Raises InputError naming
    missing, unexpected and mis-shaped keys; the model is then unchanged.
    """
    state_dict, own = bare(state_dict), bare(model.state_dict())
    missing = [key for key in own if key not in state_dict and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state_dict if key not in own]
    shapes = [
        f"{key} ({list(state_dict[key].shape)} for {list(value.shape)})"
        for key, value in own.items()
        if key in state_dict and state_dict[key].shape != value.shape
    ]
    kinds = [
        f"{key} ({state_dict[key].dtype})"
        for key, value in own.items()
        if key in state_dict and value.is_floating_point() and not state_dict[key].is_floating_point()
    ]
    problems = [
        f"{len(keys)} {kind}: {_some(keys)}"
        for kind, keys in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", shapes),
            ("of another type", kinds),
        )
        if keys
    ]
    if problems:
        raise InputError(
            f"weights {path}: do not match the model; keys {'; '.join(problems)}; "
            "give weights of this model for as many classes, or the model of these weights"
        )
    filled = {**own, **state_dict}
    model.load_state_dict(dict(zip(model.state_dict(), (filled[key] for key in own), strict=True)))


def _read(path: Path) -> object:
    try:
        if path.suffix.lower() == ".safetensors":
            return safetensors.torch.load_file(path, device="cpu")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle protocol: of no use to who only wants the weights
            return torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise InputError(f"weights {path}: cannot be read ({error.strerror}); check its permissions") from error
    except Exception as error:  # a corrupt pickle can raise anything
        if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):  # a class or function by name
            raise InputError(
                f"weights {path}: holds pickled objects other than tensors, which could run code; "
                "save only model.state_dict()"
            ) from error
        raise InputError(f"weights {path}: corrupt or not a weights file; download or save it again") from error


def _some(keys: list[str]) -> str:
    more = len(keys) - SHOWN_KEYS
    return ", ".join(keys[:SHOWN_KEYS]) + (f" and {more} more" if more > 0 else "")
