"""The training loop: SGD, with a state to resume from after every epoch.

Every source of randomness is seeded from (seed, stage, epoch): a run that was killed ends with the weights of an
unbroken one.
"""

import math
import sys
import time
import zlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from layer_folding.fold.devices import best_device
from layer_folding.fold.fitting.imitation import require_finite
from layer_folding.fold.gating import THRESHOLD, depth_penalty, gates, which_open
from layer_folding.fold.graph.tracing import trace

from . import distributed, health, memory, state
from .batches import steps, test_batches, training_batches
from .choosing import GateChoice, choose, depth_without, opened
from .data import Dataset
from .hyperparameters import Hyperparameters
from .metrics import Row, draw_gates, record
from .objectives import shared_activations
from .stepping import Stepper, stepper_for

EVAL_BATCH = 500
_FEW_CHANNELS = 8  # see `_corrupts_memory`
CHECK_EVERY = 100  # steps; asking a GPU for the loss makes it wait


def train(
    model: nn.Module, dataset: Dataset, run: Path, stage: str, h: Hyperparameters, teacher: nn.Module | None = None
) -> None:
    """Train ``model`` in place, from the last epoch that an earlier call finished; it ends in eval mode on the CPU.

    ``teacher`` is the network to distil from, if ``h`` asks for distillation or ``dataset`` has no classes. Writes
    ``run``/metrics.csv, ``run``/gates.png where there are gates, and the state to resume from, until `state.remove`.
    Raises CheckError where `health.check` does, InputError for a damaged state.
    """
    distributed.share(partial(train, model, dataset, run, stage, h, teacher))
    where = best_device()
    if where.type == "cpu":
        memory.keep_freed()
    data = dataset.to(where)
    example = torch.zeros(1, *data.shape, device=where)
    layout = _layout(model.to(where), example)
    structure = trace(model, example)
    features: list[str] = []
    if teacher is not None:
        teacher = trace(teacher.to(where), example).to(memory_format=torch.channels_last).eval()
        features = shared_activations(structure, teacher) if h.distill_features else []
    measure = None if data.imitated is None else data.imitated.measure
    stepping = stepper_for(model, h, layout, teacher, features, measure)
    rows = state.resume(run, stage, stepping.parts)
    if rows and distributed.rank() == 0:
        record(run, stage, rows)
        _say(f"{stage}: goes on after epoch {len(rows)} of {h.epochs}")
    for epoch in range(len(rows) + 1, h.epochs + 1):
        start = time.perf_counter()
        losses = _epoch(stepping, data, stage, epoch, min((row["task"] for row in rows), default=math.inf))
        if distributed.rank() > 0:
            continue
        wide = opened(stepping.result)
        choice = GateChoice(tuple(wide), {}) if h.remove else choose(structure, wide)
        depth = depth_without(structure, choice.removed)
        rows.append(_row(epoch, losses, stepping.result, data, depth, time.perf_counter() - start))
        state.save(run, stage, stepping.parts, rows)
        epochs = record(run, stage, rows)
        if gates(stepping.result):
            draw_gates(run / "gates.png", epochs, THRESHOLD, choice.kept)
        _say(_in_words(stage, rows[-1], stepping.result, h))
        if h.learns_gates:
            for warning in health.gate_warnings(rows, list(gates(stepping.result)), h):
                _say(f"warning: {stage}, epoch {epoch}: {warning}")
    if rows and stepping.average is not None:
        model.load_state_dict(stepping.average.module.state_dict())
    model.to(device="cpu").to(memory_format=torch.contiguous_format).eval()


def accuracy(model: nn.Module, dataset: Dataset) -> float:
    """Fraction of the test images that ``model`` classifies right, where it is, in eval mode (its mode is kept).

    Without classes, the accuracy of the imitation. Raises CheckError where an output is NaN or infinite.
    """
    where = next(model.parameters()).device
    was_training = model.training
    model.eval()
    if dataset.imitated is None:
        found = _right(model, dataset, where)
    else:
        found = dataset.imitated.accuracy(model, (x for x, _ in test_batches(dataset, dataset.imitated.batch, where)))
    model.train(was_training)
    return found


@torch.no_grad()
def _right(model: nn.Module, dataset: Dataset, where: torch.device) -> float:
    """Fraction of the test images that ``model``, in eval mode, classifies right."""
    right = 0
    for x, labels in test_batches(dataset, EVAL_BATCH, where):
        logits = model(x)
        require_finite([logits])
        right += int((logits.argmax(1) == labels).sum())
    return right / len(dataset.test.labels)


def _layout(model: nn.Module, example: Tensor) -> torch.memory_format:
    """How ``model`` and its images are to lie in memory, and the model there: channels last, a third less time per step
    than contiguous, on a CPU too, unless its code needs tensors to be contiguous, as `x.view(x.size(0), -1)` does, or
    PyTorch cannot train it so."""
    if example.device.type == "cpu" and any(map(_corrupts_memory, model.modules())):
        return torch.contiguous_format
    model.to(memory_format=torch.channels_last)
    try:
        with torch.no_grad():
            model.eval()(example.contiguous(memory_format=torch.channels_last))
    except RuntimeError:
        model.to(memory_format=torch.contiguous_format)
        return torch.contiguous_format
    return torch.channels_last


def _corrupts_memory(module: nn.Module) -> bool:
    """Whether the backward pass of ``module`` writes past its memory, channels last on a CPU, which ends the process.

    It does so in PyTorch 2.15 for a 1x1 convolution with stride 2, of 2 to 7 channels of even size. A fit can put one
    in the place of a network's first layers.
    """
    if not isinstance(module, nn.Conv2d) or module.groups > 1:
        return False
    return module.kernel_size == (1, 1) and max(module.stride) > 1 and module.in_channels < _FEW_CHANNELS


@dataclass(frozen=True)
class _Losses:
    """The mean ``loss`` of an epoch, and the ``task``'s part of it."""

    loss: float
    task: float


def _epoch(stepper: Stepper, data: Dataset, stage: str, epoch: int, best: float) -> _Losses:
    """One pass over the training images. The task's part of the loss was ``best`` at best, in the epochs before.

    Raises CheckError where `health.check` does.
    """
    model, h = stepper.model, stepper.h
    generator = torch.Generator().manual_seed(_seed(h.seed, stage, epoch))
    torch.manual_seed(_seed(h.seed, stage, epoch) + distributed.rank())  # for dropout
    model.train()
    where = next(model.parameters()).device
    count = steps(data, h.batch)
    total = torch.zeros(2, device=where)
    alphas = {name: gate.alpha.item() for name, gate in gates(model).items()}
    batches = training_batches(data, h.batch, generator, where, distributed.rank(), distributed.world())
    hidden = distributed.rank() > 0 or not sys.stderr.isatty()
    bar = tqdm(batches, f"{stage} {epoch}/{h.epochs}", count, leave=False, disable=hidden)
    loss = task = math.nan
    for done, (x, labels) in enumerate(bar, start=1):
        before, after = ((epoch - 1 + part / count) / h.epochs for part in (done - 1, done))
        total += stepper.step(x, labels, before, after)
        if done == 1 or done % CHECK_EVERY == 0 or done == count:
            loss, task = distributed.mean(total / done).tolist()
            best = min(best, task)
            if done == count and not all(p.isfinite().all() for p in model.parameters()):
                loss = math.nan  # the next one would be, and this state must not be kept
            health.check(loss, task, best, data.guessing, h, f"{stage}, epoch {epoch}", alphas)
    return _Losses(loss, task)


def _row(epoch: int, losses: _Losses, model: nn.Module, data: Dataset, depth: int, seconds: float) -> Row:
    """What metrics.csv says of an epoch that left ``model``."""
    known = gates(model)
    return {
        "epoch": epoch,
        "loss": losses.loss,
        "task": losses.task,
        "accuracy": accuracy(model, data),
        "penalty": depth_penalty(model).item() if known else 0.0,
        "depth": depth,
        "seconds": round(seconds, 2),
        **{name: gate.alpha.item() for name, gate in known.items()},
    }


def _in_words(stage: str, row: Row, model: nn.Module, h: Hyperparameters) -> str:
    known = list(gates(model).values())
    opened = f"  gates open {sum(which_open(known))}/{len(known)}" if known else ""
    return (
        f"{stage} {row['epoch']}/{h.epochs}  loss {row['loss']:.3f}  accuracy {100 * row['accuracy']:.2f} %{opened}"
        f"  layers if folded {row['depth']}  {row['seconds']:.0f} s"
    )


def _seed(seed: int, stage: str, epoch: int) -> int:
    return zlib.crc32(f"{seed}/{stage}/{epoch}".encode())


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
