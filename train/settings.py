"""The settings of each stage: what its result depends on, beside the files that it starts from.

config.json of a run folder holds them under the same names, and `train.options` reads them from the command line.
"""

from dataclasses import dataclass

from layer_folding.fold.gating import THRESHOLD
from layer_folding.fold.regions.costs import MAX_GROWTH

from .hyperparameters import Distilled, Hyperparameters, Training


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Which images: ``data`` is a name or a folder, ``size`` the pixels each way that images are brought to.

    ``mean`` and ``std`` are of each channel, of values from 0 to 1; None is what `train.data.load` gives.
    """

    data: str
    size: int = 32
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class PretrainSettings(Training, DataSettings):
    """``model`` is the name of the network (`fold.model_names`)."""

    model: str


@dataclass(frozen=True, kw_only=True)
class PrefoldSettings(Hyperparameters):
    """``gate`` says which activations get gates, "foldable" or "all", ``linear`` what they open to, "affine" or
    "identity" (`fold.gating.linearize`)."""

    gate: str = "foldable"
    linear: str = "affine"


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """What is fitted in the place of `PrefoldSettings`: ``choices``, as `layer_folding.fit_choices` writes them.

    ``images`` is how many training images the fit sees, drawn with ``seed``; None: as many as calib.npz has. With
    ``force``, a layer that is worse than a constant is no reason to refuse.
    """

    choices: tuple[str, ...]
    images: int | None = None
    seed: int = 0
    force: bool = False


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings(Distilled):
    """Gates at least ``threshold`` open are removed.

    An activation that no plan named stays where the merge would take more than ``max_growth`` times the
    multiply-accumulates.
    """

    threshold: float = THRESHOLD
    max_growth: float = MAX_GROWTH


@dataclass(frozen=True, kw_only=True)
class ProbeSettings(Training):
    """A short training for each set of activations."""


@dataclass(frozen=True, kw_only=True)
class SweepSettings:
    """Prefold with each of ``lambdas``, and fine-tune; the other settings are the same for each.

    ``engine`` is "sequential", or "ray" for tasks on a Ray cluster.
    """

    lambdas: tuple[float, ...]
    prefold: PrefoldSettings
    finetune: FinetuneSettings
    engine: str = "sequential"


@dataclass(frozen=True, kw_only=True)
class BudgetSettings:
    """Plan for each of ``speedups``, fit and fine-tune; ``engine`` is as in `SweepSettings`."""

    speedups: tuple[float, ...]
    finetune: FinetuneSettings
    engine: str = "sequential"
