"""The training loop: SGD, with a state to resume from after every epoch.

Every source of randomness is seeded from (seed, stage, epoch): a run that was killed ends with the weights of an
unbroken one.
"""

import math
import sys
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from fold.cost import folded_depth
from fold.trace import trace
from train import distributed, health, memory, state
from train.batches import steps, test_batches, training_batches
from train.data import Dataset
from train.gates import THRESHOLD, depth_penalty, gates, is_open
from train.hyperparameters import PRECISIONS, Hyperparameters
from train.metrics import draw_gates, record
from train.objective import objective, shared_activations
from train.planned import open_gates
from train.schedule import SCHEDULES, opening

EVAL_BATCH = 500
CHECK_EVERY = 100  # steps; asking a GPU for the loss makes it wait


def device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def train(
    model: nn.Module, dataset: Dataset, run: Path, stage: str, h: Hyperparameters, teacher: nn.Module | None = None
) -> None:
    """Train ``model`` in place, from the last epoch that an earlier call finished; it ends in eval mode on the CPU.

    ``teacher`` is the network to distil from, if ``h`` asks for distillation. Writes ``run``/metrics.csv,
    ``run``/gates.png where there are gates, and the state to resume from, until `state.remove`. Raises CheckError where
    `health.check` does, InputError for a damaged state.
    """
    distributed.share(train, model, dataset, run, stage, h, teacher)
    where = device()
    if where.type == "cpu":
        memory.keep_freed()
    data = dataset.to(where)
    example = torch.zeros(1, *data.shape, device=where)
    layout = _layout(model.to(where), example)
    structure = trace(model, example)
    features = []
    if teacher is not None:
        teacher = trace(teacher.to(where), example).to(memory_format=torch.channels_last).eval()
        features = shared_activations(structure, teacher) if h.distill_features else []
    optimizer = _optimizer(model, h)
    scaler = torch.amp.GradScaler(where.type, enabled=h.precision == "fp16")
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(h.ema), use_buffers=True) if h.ema else None
    result = model if average is None else average.module
    parts = {"model": model, "optimizer": optimizer, "scaler": scaler}
    if average is not None:
        parts["average"] = average
    rows = state.resume(run, stage, parts)
    loss_of = partial(objective, distributed.parallel(model, h.sync_bn), h=h, teacher=teacher, features=features)
    if rows and distributed.rank() == 0:
        record(run, stage, rows)
        _say(f"{stage}: goes on after epoch {len(rows)} of {h.epochs}")
    for epoch in range(len(rows) + 1, h.epochs + 1):
        start = time.perf_counter()
        step = partial(_step, model, loss_of, optimizer, scaler, average, h, layout)
        loss, task = _epoch(model, data, step, stage, epoch, h, min((row["task"] for row in rows), default=math.inf))
        if distributed.rank() > 0:
            continue
        rows.append(
            {
                "epoch": epoch,
                "loss": loss,
                "task": task,
                "accuracy": accuracy(result, data),
                "penalty": depth_penalty(result).item() if gates(result) else 0.0,
                "depth": _depth(structure, result),
                "seconds": round(time.perf_counter() - start, 2),
                **{name: gate.alpha.item() for name, gate in gates(result).items()},
            }
        )
        state.save(run, stage, parts, rows)
        record(run, stage, rows)
        if gates(result):
            draw_gates(run / "gates.png", rows, THRESHOLD)
        _say(_in_words(stage, rows[-1], result, h))
    if rows and average is not None:
        model.load_state_dict(average.module.state_dict())
    model.to("cpu", memory_format=torch.contiguous_format).eval()


def accuracy(model: nn.Module, dataset: Dataset) -> float:
    """Fraction of the test images that ``model`` classifies right, where it is, in eval mode (its mode is kept)."""
    where = next(model.parameters()).device
    was_training = model.training
    model.eval()
    right = 0
    with torch.no_grad():
        for x, labels in test_batches(dataset, EVAL_BATCH, where):
            right += (model(x).argmax(1) == labels).sum().item()
    model.train(was_training)
    return right / len(dataset.test.labels)


def _layout(model: nn.Module, example: Tensor) -> torch.memory_format:
    """How ``model`` and its images are to lie in memory, and the model there: channels last, a third less time per step
    than contiguous, on a CPU too, unless its code needs tensors to be contiguous, as `x.view(x.size(0), -1)` does."""
    model.to(memory_format=torch.channels_last)
    try:
        with torch.no_grad():
            model.eval()(example.contiguous(memory_format=torch.channels_last))
    except RuntimeError:
        model.to(memory_format=torch.contiguous_format)
        return torch.contiguous_format
    return torch.channels_last


def _optimizer(model: nn.Module, h: Hyperparameters) -> torch.optim.Optimizer:
    """SGD. The gates that are learned are a group of their own: ``h.gate_lr`` times the rate, no weight decay."""
    alphas = [gate.alpha for gate in gates(model).values() if gate.alpha.requires_grad]
    weights = [p for name, p in model.named_parameters() if not name.endswith(".alpha")]
    groups = [{"params": weights, "weight_decay": h.weight_decay, "scale": 1.0}]
    if alphas:
        groups.append({"params": alphas, "weight_decay": 0.0, "scale": h.gate_lr})
    return torch.optim.SGD(groups, lr=h.lr, momentum=h.momentum, nesterov=h.momentum > 0)


def _epoch(
    model: nn.Module,
    data: Dataset,
    step: Callable[[Tensor, Tensor, float, float], Tensor],
    stage: str,
    epoch: int,
    h: Hyperparameters,
    best: float,
) -> tuple[float, float]:
    """One pass over the training images with `_step`; the mean loss, and the task's part of it, which was ``best`` at
    best. Raises CheckError where `health.check` does."""
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
    for done, (x, labels) in enumerate(bar, start=1):
        total += step(x, labels, (epoch - 1 + (done - 1) / count) / h.epochs, (epoch - 1 + done / count) / h.epochs)
        if done == 1 or done % CHECK_EVERY == 0 or done == count:
            loss, task = distributed.mean(total / done).tolist()
            best = min(best, task)
            if done == count and not all(p.isfinite().all() for p in model.parameters()):
                loss = math.nan  # the next one would be, and this state must not be kept
            health.check(loss, task, best, len(data.classes), h, f"{stage}, epoch {epoch}", alphas)
    return loss, task


def _step(
    model: nn.Module,
    loss_of: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    average: AveragedModel | None,
    h: Hyperparameters,
    layout: torch.memory_format,
    x: Tensor,
    labels: Tensor,
    before: float,
    after: float,
) -> Tensor:
    """One update of the weights from a batch, in ``h.accumulate`` parts; loss and the task's part of it, [2].

    ``before`` and ``after`` this step are the progress of the stage, 0 to 1.
    """
    for group in optimizer.param_groups:
        group["lr"] = group["scale"] * h.lr * SCHEDULES[h.schedule](before)
    optimizer.zero_grad()
    total = torch.zeros(2, device=x.device)
    x = x.contiguous(memory_format=layout)
    for images, targets in zip(x.chunk(h.accumulate), labels.chunk(h.accumulate), strict=True):
        with torch.autocast(x.device.type, PRECISIONS[h.precision], enabled=h.precision != "fp32"):
            losses = torch.stack(loss_of(images, targets)) * (len(images) / len(x))
        scaler.scale(losses[0]).backward()
        total += losses.detach()
    scaler.step(optimizer)
    scaler.update()
    open_gates(model, h.remove, opening(after))
    if average is not None:
        average.update_parameters(model)
        open_gates(average.module, h.remove, opening(after))
    return total


def _in_words(stage: str, row: dict, model: nn.Module, h: Hyperparameters) -> str:
    known = gates(model).values()
    opened = f"  gates open {sum(map(is_open, known))}/{len(known)}" if known else ""
    return (
        f"{stage} {row['epoch']}/{h.epochs}  loss {row['loss']:.3f}  accuracy {100 * row['accuracy']:.2f} %{opened}"
        f"  layers if folded {row['depth']}  {row['seconds']:.0f} s"
    )


def _depth(structure: torch.fx.GraphModule, model: nn.Module) -> int:
    opened = {name for name, gate in gates(model).items() if is_open(gate)}
    return folded_depth(structure, [node for node in structure.graph.nodes if node.target in opened])


def _seed(seed: int, stage: str, epoch: int) -> int:
    return zlib.crc32(f"{seed}/{stage}/{epoch}".encode())


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
