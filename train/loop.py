"""The training loop: SGD on uint8 images, with a state to resume from after every epoch.

Every source of randomness is seeded from (seed, stage, epoch): a run that was killed ends with the weights of an
unbroken one.
"""

import math
import sys
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from fold.cost import folded_depth
from fold.errors import CheckError
from fold.trace import trace
from train import state
from train.data import Dataset, Split, augment, batches, normalise
from train.gates import THRESHOLD, depth_penalty, gates, is_open
from train.metrics import draw_gates, record
from train.objective import objective, shared_activations
from train.options import Hyperparameters
from train.planned import open_gates
from train.schedule import SCHEDULES, opening

EVAL_BATCH = 500


def device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def train(
    model: nn.Module, dataset: Dataset, run: Path, stage: str, h: Hyperparameters, teacher: nn.Module | None = None
) -> None:
    """Train ``model`` in place, from the last epoch that an earlier call finished; it ends in eval mode on the CPU.

    ``teacher`` is the network to distil from, needed where ``h`` asks for distillation. Writes ``run``/metrics.csv,
    ``run``/gates.png where there are gates, and the state to resume from, which `state.remove` removes. Raises CheckError
    when the loss is no longer finite, InputError for a damaged state.
    """
    where = device()
    data = Dataset(**{**vars(dataset), "train": _to(dataset.train, where), "test": _to(dataset.test, where)})
    model.to(where, memory_format=torch.channels_last)  # a third less time per step than contiguous, on a CPU too
    example = torch.zeros(1, *data.train.images.shape[1:], device=where)
    structure = trace(model, example)
    features = []
    if teacher is not None:
        teacher = trace(teacher.to(where), example).to(memory_format=torch.channels_last).eval()
        features = shared_activations(structure, teacher) if h.distill_features else []
    optimizer = _optimizer(model, h)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(h.ema), use_buffers=True) if h.ema else None
    result = model if average is None else average.module
    parts = {"model": model, "optimizer": optimizer, **({} if average is None else {"average": average})}
    rows = state.resume(run, stage, parts)
    if rows:
        record(run, stage, rows)
        _say(f"{stage}: goes on after epoch {len(rows)} of {h.epochs}")
    for epoch in range(len(rows) + 1, h.epochs + 1):
        start = time.perf_counter()
        loss = _epoch(model, data, optimizer, average, stage, epoch, h, teacher, features)
        row = {
            "epoch": epoch,
            "loss": loss,
            "accuracy": accuracy(result, data.test, data),
            "penalty": depth_penalty(result).item() if gates(result) else 0.0,
            "depth": _depth(structure, result),
            "seconds": round(time.perf_counter() - start, 2),
            **{name: gate.alpha.item() for name, gate in gates(result).items()},
        }
        rows.append(row)
        state.save(run, stage, parts, rows)
        record(run, stage, rows)
        opened = ""
        if known := gates(result).values():
            draw_gates(run / "gates.png", rows, THRESHOLD)
            opened = f"  gates open {sum(map(is_open, known))}/{len(known)}"
        _say(
            f"{stage} {epoch}/{h.epochs}  loss {loss:.3f}  accuracy {100 * row['accuracy']:.2f} %{opened}"
            f"  layers if folded {row['depth']}  {row['seconds']:.0f} s"
        )
    if rows and average is not None:
        model.load_state_dict(average.module.state_dict())
    model.to("cpu", memory_format=torch.contiguous_format).eval()


def accuracy(model: nn.Module, split: Split, dataset: Dataset) -> float:
    """Fraction of ``split`` that ``model`` classifies right, in eval mode (its mode is kept)."""
    was_training = model.training
    model.eval()
    right = 0
    with torch.no_grad():
        for images, labels in batches(split, EVAL_BATCH):
            right += (model(normalise(images, dataset.mean, dataset.std)).argmax(1) == labels).sum().item()
    model.train(was_training)
    return right / len(split.labels)


def _optimizer(model: nn.Module, h: Hyperparameters) -> torch.optim.Optimizer:
    """SGD; the gates that are learned are a group of their own, with ``h.gate_lr`` times the rate and no decay."""
    alphas = {gate.alpha for gate in gates(model).values()}
    groups = [
        {"params": [p for p in model.parameters() if p not in alphas], "weight_decay": h.weight_decay, "scale": 1.0},
        {"params": [p for p in alphas if p.requires_grad], "weight_decay": 0.0, "scale": h.gate_lr},
    ]
    return torch.optim.SGD([g for g in groups if g["params"]], lr=h.lr, momentum=h.momentum, nesterov=h.momentum > 0)


def _epoch(
    model: nn.Module,
    data: Dataset,
    optimizer: torch.optim.Optimizer,
    average: AveragedModel | None,
    stage: str,
    epoch: int,
    h: Hyperparameters,
    teacher: nn.Module | None,
    features: Sequence[str],
) -> float:
    """One pass over the training images; the mean loss."""
    generator = torch.Generator().manual_seed(_seed(h.seed, stage, epoch))
    torch.manual_seed(_seed(h.seed, stage, epoch))  # for dropout
    model.train()
    count = len(data.train.labels)
    steps = max(count - h.batch, 0) // h.batch + 1
    padding = data.train.images.shape[-1] // 8 if data.flip else data.train.images.shape[-1] // 16
    total = torch.zeros((), device=data.train.labels.device)
    shuffled = batches(data.train, h.batch, generator)
    bar = tqdm(shuffled, f"{stage} {epoch}/{h.epochs}", steps, leave=False, disable=not sys.stderr.isatty())
    for step, (images, labels) in enumerate(bar):
        for group in optimizer.param_groups:
            group["lr"] = group["scale"] * h.lr * SCHEDULES[h.schedule]((epoch - 1 + step / steps) / h.epochs)
        x = normalise(augment(images, generator, padding, data.flip), data.mean, data.std)
        x = x.contiguous(memory_format=torch.channels_last)
        loss, _ = objective(model, x, labels, h, teacher, features)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.detach()
        open_gates(model, h.remove, opening((epoch - 1 + (step + 1) / steps) / h.epochs))
        if average is not None:
            average.update_parameters(model)
            open_gates(average.module, h.remove, gate)
    mean = total.item() / steps
    if not math.isfinite(mean):
        raise CheckError(f"{stage}: the loss is {mean} in epoch {epoch}; lower --lr (it was {h.lr})")
    return mean


def _depth(structure: torch.fx.GraphModule, model: nn.Module) -> int:
    opened = {name for name, gate in gates(model).items() if is_open(gate)}
    return folded_depth(structure, [node for node in structure.graph.nodes if node.target in opened])


def _seed(seed: int, stage: str, epoch: int) -> int:
    return zlib.crc32(f"{seed}/{stage}/{epoch}".encode())


def _to(split: Split, where: torch.device) -> Split:
    return Split(split.images.to(where), split.labels.to(where))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
