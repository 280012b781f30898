"""The training loop: SGD on uint8 images, with a state to resume from after every epoch.

Every source of randomness is seeded from (seed, stage, epoch): a run that was killed ends with the weights of an
unbroken one.
"""

import io
import math
import sys
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from fold.cost import folded_depth
from fold.errors import CheckError, InputError
from fold.files import atomic_path
from fold.trace import trace
from train.batches import steps, test_batches, training_batches
from train.data import Dataset
from train.gates import THRESHOLD, depth_penalty, gates, is_open
from train.metrics import draw_gates, record

EVAL_BATCH = 500
WARM_UP = 0.15  # of all steps; BatchNorm networks diverge at their best learning rate without one


@dataclass(frozen=True)
class Hyperparameters:
    """How a stage trains. ``penalty`` is the paper's lambda; ``gate_lr`` multiplies ``lr`` for the gates."""

    epochs: int
    batch: int
    lr: float
    weight_decay: float
    seed: int
    momentum: float = 0.9
    penalty: float = 0.0
    gate_lr: float = 1.0


def device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def train(model: nn.Module, dataset: Dataset, run: Path, stage: str, h: Hyperparameters) -> None:
    """Train ``model`` in place, from the last epoch that an earlier call finished; it ends in eval mode on the CPU.

    Writes ``run``/metrics.csv, ``run``/gates.png where there are gates, and the state to resume from, which `finish`
    removes. Raises CheckError when the loss is no longer finite, InputError for a damaged state.
    """
    where = device()
    data = dataset.to(where)
    model.to(where, memory_format=torch.channels_last)  # a third less time per step than contiguous, on a CPU too
    weights = [p for name, p in model.named_parameters() if not name.endswith(".alpha")]
    alphas = [gate.alpha for gate in gates(model).values()]
    groups = [{"params": weights, "weight_decay": h.weight_decay, "scale": 1.0}]
    if alphas:
        groups.append({"params": alphas, "weight_decay": 0.0, "scale": h.gate_lr})
    optimizer = torch.optim.SGD(groups, lr=h.lr, momentum=h.momentum, nesterov=True)
    structure = trace(model, torch.zeros(1, *data.shape, device=where))
    rows = _resume(run, stage, model, optimizer)
    if rows:
        record(run, stage, rows)
        _say(f"{stage}: goes on after epoch {len(rows)} of {h.epochs}")
    for epoch in range(len(rows) + 1, h.epochs + 1):
        start = time.perf_counter()
        loss = _epoch(model, data, optimizer, stage, epoch, h)
        row = {
            "epoch": epoch,
            "loss": loss,
            "accuracy": accuracy(model, data),
            "penalty": depth_penalty(model).item() if alphas else 0.0,
            "depth": _depth(structure, model),
            "seconds": round(time.perf_counter() - start, 2),
            **{name: gate.alpha.item() for name, gate in gates(model).items()},
        }
        rows.append(row)
        _save_state(run, stage, model, optimizer, rows)
        record(run, stage, rows)
        if alphas:
            draw_gates(run / "gates.png", rows, THRESHOLD)
        opened = f"  gates open {sum(map(is_open, gates(model).values()))}/{len(alphas)}" if alphas else ""
        _say(
            f"{stage} {epoch}/{h.epochs}  loss {loss:.3f}  accuracy {100 * row['accuracy']:.2f} %{opened}"
            f"  layers if folded {row['depth']}  {row['seconds']:.0f} s"
        )
    model.to("cpu", memory_format=torch.contiguous_format).eval()


def finish(run: Path, stage: str) -> None:
    """Remove the state of a stage whose checkpoint has been written."""
    _state_path(run, stage).unlink(missing_ok=True)


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


def _epoch(
    model: nn.Module, data: Dataset, optimizer: torch.optim.Optimizer, stage: str, epoch: int, h: Hyperparameters
) -> float:
    """One pass over the training images; the mean loss."""
    generator = torch.Generator().manual_seed(_seed(h.seed, stage, epoch))
    torch.manual_seed(_seed(h.seed, stage, epoch))  # for dropout
    model.train()
    where = next(model.parameters()).device
    count = steps(data, h.batch)
    total = torch.zeros((), device=where)
    batches = training_batches(data, h.batch, generator, where)
    bar = tqdm(batches, f"{stage} {epoch}/{h.epochs}", count, leave=False, disable=not sys.stderr.isatty())
    for step, (x, labels) in enumerate(bar):
        for group in optimizer.param_groups:
            group["lr"] = group["scale"] * h.lr * schedule((epoch - 1 + step / count) / h.epochs)
        x = x.contiguous(memory_format=torch.channels_last)
        loss = F.cross_entropy(model(x), labels)
        if h.penalty:
            loss = loss + h.penalty * depth_penalty(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.detach()
    mean = total.item() / count
    if not math.isfinite(mean):
        raise CheckError(f"{stage}: the loss is {mean} in epoch {epoch}; lower --lr (it was {h.lr})")
    return mean


def schedule(progress: float) -> float:
    """Factor on the learning rate at ``progress`` (0 to 1) of a stage: linear warm-up, then a half cosine to 0."""
    if progress < WARM_UP:
        return (progress + 1e-3) / (WARM_UP + 1e-3)
    return 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))


def _depth(structure: torch.fx.GraphModule, model: nn.Module) -> int:
    opened = {name for name, gate in gates(model).items() if is_open(gate)}
    return folded_depth(structure, [node for node in structure.graph.nodes if node.target in opened])


def _seed(seed: int, stage: str, epoch: int) -> int:
    return zlib.crc32(f"{seed}/{stage}/{epoch}".encode())


def _state_path(run: Path, stage: str) -> Path:
    return run / f".{stage}.state"


def _save_state(run: Path, stage: str, model: nn.Module, optimizer: torch.optim.Optimizer, rows: list[dict]) -> None:
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "rows": rows}
    buffer = io.BytesIO()  # torch reports a full disk as a RuntimeError, a plain write as what it is
    torch.save(state, buffer)
    with atomic_path(_state_path(run, stage)) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def _resume(run: Path, stage: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> list[dict]:
    """Restore the state after the last finished epoch, if there is one; the rows of metrics.csv up to then."""
    path = _state_path(run, stage)
    if not path.exists():
        return []
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        return state["rows"]
    except Exception as error:  # a damaged pickle can raise anything
        raise InputError(f"{path}: damaged; delete it, and {stage} starts from its first epoch") from error


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
