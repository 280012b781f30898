"""The last steps of a fit: what is cheap to move, and then all weights, follow the outputs of the original network.

Each layer is fitted to the value that it stands for, which is not yet the best for the network. So, without labels, the
scales and shifts of the BatchNorms from the first fitted layer on, the weights of the fitted layers and the last layer
follow the gradient of the divergence from the original for a few epochs over the calibration images. What is kept is
the epoch with the least divergence on the images held out, the start among them: a step that does not help changes
nothing. With epochs of distillation, all weights follow in the same way afterwards.

Fitting each layer again, with the others in place, would change nothing: what comes before it is as it was.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..algebra.layers import BATCH_NORMS, is_weighted
from ..graph.nodes import module_of, target_of
from .divergences import Divergence, measure_of, tensors_of
from .placing import Placed

EPOCHS = 8
_RATE = 3e-3  # of Adam, for scales, shifts and the last layer
_RATE_OF_WEIGHTS = 3e-4
_WARM_UP = 0.2  # of the steps


@dataclass(frozen=True)
class Outputs:
    """Images, and what the original network gives for them."""

    images: Tensor
    expected: tuple[Tensor, ...]


def tune(
    changed: fx.GraphModule,
    placed: list[Placed],
    seen: Outputs,
    held_out: Outputs,
    batch: int,
    progress: Callable[[str], None],
) -> None:
    """Bring the outputs of ``changed``, in eval mode, closer to those expected, in place.

    Args:
        changed: with all that was ``placed``.
        seen: to follow.
        held_out: to choose by.
        batch: images at a time.
        progress: called with a phrase that says what is being done.
    """
    progress("tuning")
    norms, last = _behind(changed, placed)
    fitted = [changed.get_submodule(each.layer) for each in placed if each.layer]
    best = _Best(changed, held_out, batch)
    with _taking_statistics(norms), torch.no_grad():
        for x in seen.images.tensor_split(math.ceil(len(seen.images) / max(batch, 2))):  # none of one image
            changed(x)
    best.look()
    best.restore()
    free = [layer for layer in fitted if layer is not last]
    moved = [(_parameters([*norms, last]), _RATE), (_parameters(free), _RATE_OF_WEIGHTS)]
    for done, _ in enumerate(_epochs(changed, moved, seen, batch, EPOCHS), start=1):
        progress(f"tuning: epoch {done} of {EPOCHS}")
        best.look()
    best.restore()


def distil(
    changed: fx.GraphModule,
    seen: Outputs,
    held_out: Outputs,
    batch: int,
    epochs: int,
    progress: Callable[[str], None],
) -> None:
    """Let all weights of ``changed`` follow the expected outputs for some ``epochs``; the rest is as for `tune`."""
    best = _Best(changed, held_out, batch)
    moved = [(list(changed.parameters()), _RATE_OF_WEIGHTS)]
    for done, _ in enumerate(_epochs(changed, moved, seen, batch, epochs), start=1):
        progress(f"distilling: epoch {done} of {epochs}")
        best.look()
    best.restore()


class _Best:
    """The weights with the least divergence that was seen, and these weights again."""

    def __init__(self, changed: nn.Module, held_out: Outputs, batch: int):
        self._changed, self._held_out, self._batch = changed, held_out, batch
        self._least = math.inf
        self._kept = copy.deepcopy(changed.state_dict())
        self.look()

    def look(self) -> None:
        """Keep the weights where the divergence is the least so far."""
        reached = divergence_of(self._changed, self._held_out, self._batch).mean
        if reached < self._least:
            self._least, self._kept = reached, copy.deepcopy(self._changed.state_dict())

    def restore(self) -> None:
        """Set the weights that were kept."""
        self._changed.load_state_dict(self._kept)


@torch.no_grad()
def divergence_of(changed: nn.Module, outputs: Outputs, batch: int) -> Divergence:
    """How far ``changed``, in eval mode, is from ``outputs``."""
    total = Divergence(measure_of(outputs.expected))
    for x, *expected in zip(outputs.images.split(batch), *(y.split(batch) for y in outputs.expected), strict=True):
        total.add(expected, tensors_of(changed(x)))
    return total


def _parameters(modules: Iterable[nn.Module]) -> list[nn.Parameter]:
    return [p for module in modules for p in module.parameters()]


def _epochs(
    changed: fx.GraphModule, moved: list[tuple[list[nn.Parameter], float]], seen: Outputs, batch: int, epochs: int
) -> Iterator[None]:
    """Adam on the parameters that are ``moved``, each list at its peak rate; yields after each epoch."""
    optimizer = torch.optim.Adam([{"params": parameters, "lr": rate} for parameters, rate in moved if parameters])
    highest: Any = [group["lr"] for group in optimizer.param_groups]
    steps = epochs * len(seen.images.split(batch))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, highest, total_steps=steps, pct_start=_WARM_UP)
    generator, measure = torch.Generator().manual_seed(0), measure_of(seen.expected)
    for _ in range(epochs):
        for chosen in torch.randperm(len(seen.images), generator=generator).split(batch):
            with torch.enable_grad(), _only(changed, itertools.chain(*(parameters for parameters, _ in moved))):
                actual = tensors_of(changed(seen.images[chosen]))
                measure.mean([y[chosen] for y in seen.expected], actual).backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        yield


def _behind(changed: fx.GraphModule, placed: list[Placed]) -> tuple[list[Any], nn.Module]:
    """The BatchNorms from the first that was placed on, and the last weighted layer."""
    nodes = list(changed.graph.nodes)
    names = {path for each in placed for path in (each.layer, each.norm)}
    first = next(i for i, node in enumerate(nodes) if node.op == "call_module" and target_of(node) in names)
    norms = [module for module in map(module_of, nodes[first:]) if isinstance(module, BATCH_NORMS)]
    last = module_of([node for node in nodes if is_weighted(node)][-1])
    assert last is not None
    return [norm for norm in norms if norm.running_mean is not None], last


@contextmanager
def _taking_statistics(norms: list[Any]) -> Iterator[None]:
    """Within the block, ``norms`` replace their statistics by those of all batches together."""
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.train().momentum = None
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.eval().momentum = momentum


@contextmanager
def _only(changed: nn.Module, parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Within the block, only ``parameters`` get gradients."""
    before = [(p, p.requires_grad) for p in changed.parameters()]
    chosen = {id(p) for p in parameters}
    for p, _ in before:
        p.requires_grad_(id(p) in chosen)
    try:
        yield
    finally:
        for p, needed in before:
            p.requires_grad_(needed)
