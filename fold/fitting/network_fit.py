"""Fit: one layer of a chosen shape for each region and its activations, by least squares on unlabelled images."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, fx, nn

from layer_folding.errors import InputError
from layer_folding.fit_choices import Choice, LayerShape, refuse_additions
from layer_folding.plans import Plan
from layer_folding.recipes import FitRecord

from ..graph.noted_fits import note_fits
from ..graph.tracing import Activation, trace
from .layer_fit import fit_layer, flat_beyond
from .parts import find_parts
from .placing import FittedWeights, Placed
from .sides import Sides, outputs_of, put, require_close, start
from .tuning import Outputs, distil, divergence_of, tune
from .validity import require_enough, require_images, require_outputs, split

# Fits the layer of a choice by calling what it is given, or knows the layer from an earlier fit that was interrupted.
Solve = Callable[[Choice, Callable[[], FittedWeights]], FittedWeights]


@dataclass(frozen=True)
class FittedLayer:
    """One layer that was fitted.

    The layer at the path ``name`` replaces ``layers`` and ``activations``, and has the chosen ``shape``. ``error`` is
    the relative error of the region's output on images that were not fitted on: the root of the squared error over that
    of the best constant per channel. It is the error of the least-squares fit, before tuning. It includes the errors of
    earlier fits that this fit could not repair.
    """

    activations: tuple[str, ...]
    shape: LayerShape
    layers: tuple[str, ...]
    name: str
    error: float


@dataclass(frozen=True)
class Distance:
    """How far outputs are from those of the original network: ``divergence`` and ``agreement`` as in `FitResult`."""

    divergence: float
    agreement: float | None


@dataclass(frozen=True)
class FitResult:
    """``model`` with its fitted ``layers``, from the input to the output, and how far its outputs are off.

    On images that were not fitted on: ``divergence`` is the mean of KL(original || model), in nats, and ``agreement``
    the share of images for which both rank the same class first. Where the outputs are no scores of classes,
    ``divergence`` is their mean squared error over their variance (`fold.fitting.divergences`), and ``agreement`` None.
    Tuning chooses its epoch by the divergence on these images, so both are then slightly optimistic. With epochs of
    distillation, ``before_epochs`` is what both were before these epochs, else None.
    """

    model: fx.GraphModule
    layers: tuple[FittedLayer, ...]
    divergence: float
    agreement: float | None
    before_epochs: Distance | None = None


def fit(
    model: nn.Module,
    images: Tensor,
    choices: Mapping[str | tuple[str, ...], LayerShape] | Plan,
    *,
    activations: Collection[Activation] = (),
    tuned: bool = True,
    epochs: int = 0,
    force: bool = False,
    progress: Callable[[str], None] = lambda text: None,
    solve: Solve = lambda choice, fit_it: fit_it(),
) -> FitResult:
    """A copy of ``model`` in which one layer stands for each chosen region and its activations.

    Each layer is a least-squares fit. The target is what the region computes in ``model``. The input is what reaches
    the region when the layers before it are fitted already, so each fit also repairs the errors of earlier fits. A skip
    around the region stays exact. No labels are needed. With ``tuned``, a few epochs of gradient steps on the same
    images follow. The copy trains like any network: behind each fitted layer is a BatchNorm that leaves its function
    unchanged. `fold` merges the BatchNorm at the end, exactly.

    Args:
        model: a trained network that ``torch.fx`` can trace, in any mode; it is not modified. Its output is
            `[N, classes]`, or `[N, classes, *spatial]`.
        images: `[N, C, *spatial]`, in the size and normalisation that the network was trained on; every eighth is held
            out to measure on. 500 to 1,000 are enough for most networks.
        choices: the activations to remove, and the shape of the layer in their place. A key is a name, or a tuple of
            names that are removed together. A shape is a kernel size, such as 3 or (3, 1); "merged", the size of the
            exact merge; "depthwise"; or "none", a scale and a shift per channel. Or a plan: its exact merges are then
            fitted too, with the shape "merged".
        activations: functions and classes to be taken for activations too, see `fold.graph.tracing.trace`.
        tuned: at the end, move scales, shifts, fitted weights and the last layer towards the outputs of ``model``
            (`fold.fitting.tuning`), which takes longer than the fits.
        epochs: then let all weights follow these outputs for so many epochs, which is distillation without labels.
        force: return the network even where a fit is worse than a constant.
        progress: called with a phrase that says what is being done.
        solve: called for each layer, with its choice and the function that fits it; gives the layer. By a ``solve``
            that keeps the layers, a fit goes on where it stopped.

    Raises:
        InputError: a choice is no region, its shape does not fit, two choices overlap, the plan adds an activation, or
            the images are too few or not such as the network was trained on.
        CheckError: a fitted layer is worse than a constant on the images held out.

    Example:
        >>> import torch, layer_folding as lf
        >>> block = [torch.nn.Conv2d(4, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 3, padding=1)]
        >>> model = torch.nn.Sequential(*block, torch.nn.Flatten(), torch.nn.Linear(256, 10)).eval()
        >>> result = lf.fit(model, torch.randn(64, 4, 8, 8), {"1": 3})
        >>> result.model.get_submodule("0_2")
        Conv2d(4, 4, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)
        >>> result.layers[0].error < 1
        True
    """
    wanted = _wanted(choices)
    traced = trace(model, images[:1], activations=activations)
    modes = {name: module.training for name, module in traced.named_modules()}
    traced.eval()
    parts = find_parts(traced, wanted)
    for part in parts:
        require_enough(images, part)
    require_images(traced, images)
    require_outputs(traced, images[:1])
    running, fitted = start(traced, images)
    running.to(parts[0].region.anchor)
    sides = Sides.of(running, fitted)
    changed = sides.changed.traced
    removed = {node for part in parts for node in part.region.removed}
    placed: list[Placed] = []
    layers: list[FittedLayer] = []
    for number, part in enumerate(parts, start=1):
        progress(f"layer {number} of {len(parts)}: {part.choice}")
        weights = solve(part.choice, partial(fit_layer, sides, part, flat_beyond(part, removed)))
        stands, error = put(sides, part, weights)
        if not force:
            require_close(part.choice, error)
        placed.append(stands)
        layers.append(FittedLayer(part.choice.activations, part.choice.shape, part.layers, stands.name, error))
    expected = outputs_of(running)
    seen, held_out = (
        Outputs(some, tuple(map(torch.cat, zip(*outputs, strict=True))))
        for some, outputs in zip(split(images), (expected[:fitted], expected[fitted:]), strict=True)
    )
    batch = len(expected[0][0])
    del sides, running  # the values of both networks, before tuning needs memory
    if tuned:
        tune(changed, placed, seen, held_out, batch, progress)
    before = None
    if epochs:
        before = _distance(changed, held_out, batch)
        distil(changed, seen, held_out, batch, epochs, progress)
    reached = _distance(changed, held_out, batch)
    for name, module in changed.named_modules():
        module.training = modes.get(name, modes[""])
    progress("")
    note_fits(changed, tuple(map(_record, layers)))
    return FitResult(changed, tuple(layers), reached.divergence, reached.agreement, before)


def _distance(changed: nn.Module, outputs: Outputs, batch: int) -> Distance:
    found = divergence_of(changed, outputs, batch)
    return Distance(found.mean, found.agreement)


def _record(layer: FittedLayer) -> FitRecord:
    return FitRecord(str(Choice(layer.activations, layer.shape)), layer.layers, layer.name, layer.error)


def _wanted(choices: Mapping[str | tuple[str, ...], LayerShape] | Plan) -> list[Choice]:
    if not isinstance(choices, Plan):
        if not choices:
            raise InputError("choices: none are given; name activations and a shape, such as {'layer1.0.relu': 3}")
        return [Choice((key,) if isinstance(key, str) else key, shape) for key, shape in choices.items()]
    refuse_additions(choices.additions)
    if not choices.choices:
        raise InputError("the plan is to fold nothing; keep the original network, or plan for another budget or device")
    return list(choices.choices)
