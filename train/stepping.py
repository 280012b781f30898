"""One training step: SGD on a batch, with everything that a step needs put together once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from layer_folding.errors import InputError
from layer_folding.fold.fitting.divergences import OutputMeasure
from layer_folding.fold.gating import gates

from . import distributed
from .hyperparameters import PRECISIONS, Hyperparameters
from .objectives import objective
from .pressure import pressure, settle
from .scheduled import open_gates
from .schedules import SCHEDULES, opening
from .state import Stateful

# Of gradients, where the loss is a squared error over a variance that may be small. Gradients of scores are bounded.
_LARGEST = 1.0


@dataclass(frozen=True)
class Stepper:
    """What updates the weights of ``model`` in place, with its state.

    ``average`` holds the averaged weights where ``h`` asks for them, and ``layout`` is how images lie in memory.
    ``largest`` is the norm that gradients of the weights are clipped to; None leaves them as they are.
    """

    model: nn.Module
    loss_of: Callable[..., tuple[Tensor, Tensor]]  # of images, labels and the pressure on the gates
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: AveragedModel | None
    h: Hyperparameters
    layout: torch.memory_format
    largest: float | None = None

    @property
    def result(self) -> nn.Module:
        """The network that the training gives: with averaged weights, where there are some."""
        return self.model if self.average is None else self.average.module

    @property
    def parts(self) -> Mapping[str, Stateful]:
        """All that changes with the steps."""
        parts: dict[str, Stateful] = {"model": self.model, "optimizer": self.optimizer, "scaler": self.scaler}
        return parts if self.average is None else {**parts, "average": self.average}

    def step(self, x: Tensor, labels: Tensor, before: float, after: float) -> Tensor:
        """One update of the weights from a batch, in ``h.accumulate`` parts; loss and the task's part of it, [2].

        ``before`` and ``after`` this step are the progress of the stage, 0 to 1.
        """
        h = self.h
        for group in self.optimizer.param_groups:
            group["lr"] = group["scale"] * h.lr * SCHEDULES[h.schedule](before)
        self.optimizer.zero_grad()
        total = torch.zeros(2, device=x.device)
        pressed = pressure(self.model, h.remove_count, before)
        x = x.contiguous(memory_format=self.layout)
        for images, targets in zip(x.chunk(h.accumulate), labels.chunk(h.accumulate), strict=True):
            with torch.autocast(x.device.type, PRECISIONS[h.precision], enabled=h.precision != "fp32"):
                losses = torch.stack(self._losses(images, targets, pressed)) * (len(images) / len(x))
            self.scaler.scale(losses[0]).backward()
            total += losses.detach()
        if self.largest is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.optimizer.param_groups[0]["params"], self.largest)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._move_gates(self.model, after)
        if self.average is not None:
            self.average.update_parameters(self.model)
            self._move_gates(self.average.module, after)
        return total

    def _losses(self, images: Tensor, targets: Tensor, pressed: float) -> tuple[Tensor, Tensor]:
        try:
            return self.loss_of(images, targets, pressure=pressed)
        except ValueError as error:
            if len(images) > 1 or "more than 1 value per channel" not in str(error):
                raise
            raise InputError(
                "--batch: BatchNorm cannot learn from one image at a time; give more images, or a smaller --accumulate"
            ) from error

    def _move_gates(self, model: nn.Module, progress: float) -> None:
        if self.h.learns_gates:
            settle(model, self.h.remove_count, progress)
        open_gates(model, self.h.remove, opening(progress))


def stepper_for(
    model: nn.Module,
    h: Hyperparameters,
    layout: torch.memory_format,
    teacher: nn.Module | None = None,
    features: Sequence[str] = (),
    measure: OutputMeasure | None = None,
) -> Stepper:
    """A `Stepper` for ``model`` from its start; ``teacher``, ``features`` and ``measure`` are as in
    `train.objectives.objective`."""
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(h.ema), use_buffers=True) if h.ema else None
    called = distributed.parallel(model, sync_bn=h.sync_bn)
    return Stepper(
        model,
        partial(objective, called, h=h, teacher=teacher, features=features, measure=measure),
        _optimizer(model, h),
        torch.amp.GradScaler(next(model.parameters()).device.type, enabled=h.precision == "fp16"),
        average,
        h,
        layout,
        None if measure is None or measure.scales is None else _LARGEST,
    )


def _optimizer(model: nn.Module, h: Hyperparameters) -> torch.optim.Optimizer:
    """SGD. The gates that are learned are a group of their own: ``h.gate_lr`` times the rate, no weight decay."""
    alphas = [gate.alpha for gate in gates(model).values() if gate.alpha.requires_grad]
    weights = [p for name, p in model.named_parameters() if not name.endswith(".alpha")]
    groups = [{"params": weights, "weight_decay": h.weight_decay, "scale": 1.0}]
    if alphas:
        groups.append({"params": alphas, "weight_decay": 0.0, "scale": h.gate_lr})
    return torch.optim.SGD(groups, lr=h.lr, momentum=h.momentum, nesterov=h.momentum > 0)
