"""Several processes as one, on one machine or many: process 0 runs the command, the others help it train.

    torchrun --nproc-per-node 4 -m -- train prefold --run runs/demo

The "--" keeps torchrun from taking --run for an abbreviation of one of its own options (Python 3.11 and before do).
Process 0 alone touches the run folder, prints and decides: which gates are open, what is removed, where to go on. When
it trains, it sends the others the network, the data and the settings, and all run the same training call on
DistributedDataParallel, each with its part of every batch: over NCCL on GPUs, one a process, over gloo on CPUs.
"""

import contextlib
import copy
import os
import signal
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from layer_folding.errors import CheckError, InputError

Value = TypeVar("Value")


def run(command: Callable[[], None]) -> None:
    """Call ``command``; under torchrun in process 0 only, and the others run what it shares.

    Raises CheckError in process 0 where another one is lost. If any fails, torchrun ends the others.
    """
    if not dist.is_torchelastic_launched():
        return command()
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # Others wait while process 0 evaluates or reads images; one that is lost is torchrun's to find, not a timeout's.
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=timedelta(days=1))
    try:
        if rank() == 0:
            command()
            share(None)
        else:
            _help()
    except RuntimeError as error:
        if "peer" not in str(error):  # gloo: connection closed by peer, or reset by peer
            raise
        if rank() > 0:
            sys.exit(1)  # the process that has gone has said why
        raise CheckError("a process was lost; the same command goes on from the last finished epoch") from error
    dist.destroy_process_group()


def _help() -> None:
    """Run what process 0 shares, until that is None."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # process 0 says that it was interrupted
    while True:
        shared = first(_nothing)
        if shared is None:
            return
        with contextlib.suppress(InputError, CheckError):  # process 0 has the same one, and says it
            shared()


def rank() -> int:
    """The number of this process, 0 if it is the only one."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def share(call: Callable[[], None] | None) -> None:
    """In process 0, have the others do ``call``, a partial of plain values, as it is about to; in the others, nothing.

    None ends the others.
    """
    if rank() == 0:
        first(lambda: call)


def _nothing() -> Callable[[], None] | None:
    """What a process that only listens has to share."""
    return None


def first(value: Callable[[], Value]) -> Value:
    """What ``value()`` is in process 0, in all processes that call this together."""
    box: list[Any] = [value() if rank() == 0 else None]
    if world() > 1:
        dist.broadcast_object_list(box, src=0)
    shared: Value = box[0]
    return shared


def mean(value: Tensor) -> Tensor:
    """The mean of ``value`` over the processes, which all call this."""
    if world() > 1:
        dist.all_reduce(value)
    return value / world()


def parallel(model: nn.Module, *, sync_bn: bool) -> nn.Module:
    """``model`` as it is to be called for training: its gradients become means over the processes.

    With ``sync_bn`` BatchNorm normalises over the whole batch; else over the part of each process, of which process 0
    keeps the running statistics. ``model`` itself is not modified, and shares all tensors with the result.
    """
    if world() == 1:
        return model
    if sync_bn:
        model = synchronised(model).train()
    device = next(model.parameters()).device
    return DistributedDataParallel(model, device_ids=[torch.cuda.current_device()] if device.type == "cuda" else None)


def synchronised(model: nn.Module) -> nn.Module:
    """A copy of ``model`` that shares all its tensors, with SyncBatchNorm in the place of BatchNorm."""
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model, tensors))
