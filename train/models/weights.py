"""Weights from elsewhere: read without running what is in the file, and fitted to a network or refused by key."""

import os
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from fold.errors import InputError

SUFFIXES = (".pt", ".pth", ".th", ".ckpt", ".safetensors")
SHOWN_KEYS = 4  # of each kind in a message about weights that do not match


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """The state dict in ``path``, on the CPU: ``.pt``, ``.pth``, ``.th`` and ``.ckpt`` (torch), or ``.safetensors``.

    Unwraps ``{"state_dict": ...}`` and ``{"model": ...}``, and strips the ``module.`` of DataParallel. Nothing is
    unpickled but tensors and plain containers (``weights_only``). Raises InputError for a file that is missing, of
    another kind, corrupt, or holds anything else.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"weights {path}: unknown suffix {path.suffix!r}; give one of {', '.join(SUFFIXES)}")
    if not os.path.isfile(path):
        problem = "is not a file" if os.path.exists(path) else "does not exist"
        raise InputError(f"weights {path}: {problem}; give the path of a weights file")
    state = _read(path)
    while isinstance(state, Mapping):
        inner = next((state[key] for key in ("state_dict", "model") if isinstance(state.get(key), Mapping)), None)
        if inner is None:
            break
        state = inner
    if not isinstance(state, Mapping) or not state:
        raise InputError(f"weights {path}: holds no state dict; save model.state_dict()")
    stray = [str(key) for key, value in state.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if stray:
        raise InputError(f"weights {path}: {_some(stray)} is not a tensor with a name; save model.state_dict()")
    return {key.removeprefix("module."): value for key, value in state.items()}


def apply_weights(model: nn.Module, state_dict: Mapping[str, Tensor], path: str | Path) -> None:
    """Copy ``state_dict`` into ``model``; ``path`` is for the message. Every key and shape must match.

    BatchNorm's ``num_batches_tracked`` may be missing (PyTorch before 0.4.1 had none). Raises InputError naming
    missing, unexpected and mis-shaped keys; the model is then unchanged.
    """
    own = model.state_dict()
    missing = [key for key in own if key not in state_dict and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state_dict if key not in own]
    shapes = [
        f"{key} ({list(state_dict[key].shape)} for {list(value.shape)})"
        for key, value in own.items()
        if key in state_dict and state_dict[key].shape != value.shape
    ]
    problems = [
        f"{len(keys)} {kind}: {_some(keys)}"
        for kind, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if keys
    ]
    if problems:
        raise InputError(
            f"weights {path}: do not match the model; keys {'; '.join(problems)}; "
            "give weights of this model for as many classes, or the model of these weights"
        )
    model.load_state_dict({**own, **state_dict})


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
