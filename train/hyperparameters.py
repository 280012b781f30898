"""How a stage trains."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Training:
    """What every stage that trains can be told; the options of the same names say what each is.

    ``epochs`` of 0 skip training, ``batch`` counts the images of a step, and ``lr`` is the peak learning rate.
    """

    epochs: int
    batch: int
    lr: float
    weight_decay: float
    seed: int
    momentum: float = 0.9
    schedule: str = "one-cycle"
    label_smoothing: float = 0.0
    ema: float = 0.0
    precision: str = "fp32"
    accumulate: int = 1
    sync_bn: bool = False


@dataclass(frozen=True)
class Distilled(Training):
    """Training with the original network as the teacher; ``distill`` and ``distill_features`` of 0 leave it out.

    A ``distill`` of None is 0 until `train.labelling.taught` knows better.
    """

    distill: float | None = None
    temperature: float = 4.0
    distill_features: float = 0.0

    @property
    def has_teacher(self) -> bool:
        """Whether the original network is needed."""
        return bool(self.distill or self.distill_features)


@dataclass(frozen=True)
class Hyperparameters(Distilled):
    """All that the training loop can be told: with gates, too.

    ``penalty`` is the paper's lambda, ``gate_lr`` the learning rate of the gates in multiples of ``lr``,
    ``gate_weights`` the weight of each gate in the penalty, ``remove`` the gates that are opened on a schedule, and
    ``remove_count`` how many gates are to open, whatever lambda that takes (0: as many as lambda opens).
    """

    penalty: float = 0.0
    gate_lr: float = 1.0
    gate_weights: Mapping[str, float] | None = None
    remove: tuple[str, ...] = ()
    remove_count: int = 0

    @property
    def learns_gates(self) -> bool:
        """Whether gates, where there are some, open by the penalty, not on a schedule."""
        return bool(self.penalty) and not self.remove


def hyperparameters(settings: Training) -> Hyperparameters:
    """The hyperparameters among the ``settings`` of a stage; those that the stage does not have are left at rest."""
    there = {field.name for field in fields(settings)}
    names = [field.name for field in fields(Hyperparameters) if field.name in there]
    return Hyperparameters(**{name: getattr(settings, name) for name in names})
