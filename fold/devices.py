"""Where networks run."""

import itertools

import torch
from torch import nn

from .graph.preparing import whole_copy


def best_device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def on_cpu(model: nn.Module) -> nn.Module:
    """``model`` itself where it is on the CPU, else a copy there, in eval mode; for what runs on a CPU alone.

    Raises InputError where ``model`` cannot be copied.
    """
    tensors = itertools.chain(model.parameters(), model.buffers())
    return whole_copy(model).cpu() if any(tensor.is_cuda for tensor in tensors) else model
