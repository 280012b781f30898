"""Fit: one layer of a chosen shape for each region and its activations, by least squares on unlabelled images."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from layer_folding.errors import CheckError, InputError
from layer_folding.fit_choices import Choice, LayerShape, refuse_additions
from layer_folding.plans import Plan
from layer_folding.recipes import FitRecord

from ..graph.noted_fits import note_fits
from ..graph.tracing import Activation, trace
from .divergences import RelativeError, tensors_of
from .layer_fit import Sides, fit_layer, flat_beyond
from .parts import Part, find_parts
from .placing import FittedWeights, Placed, fill, place, twin
from .running import Running
from .tuning import Outputs, distil, divergence_of, tune
from .validity import require_images, split

# Fits the layer of a choice by calling what it is given, or knows the layer from an earlier fit that was interrupted.
Solve = Callable[[Choice, Callable[[], FittedWeights]], FittedWeights]

_BATCH_BYTES = 2**26  # of the largest value of a batch


@dataclass(frozen=True)
class FittedLayer:
    """One layer that was fitted.

    ``activations`` were removed and ``layers`` replaced; ``name`` is the path of what stands for them, a layer of shape
    ``shape`` as chosen. ``error`` is that of the region's output on images that were not fitted on, relative: the root
    of its squared error over that of the best constant per channel. It has in it what earlier fits could not repair. It
    is the error of the least-squares fit, before tuning.
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

    Each layer is the least-squares fit to what its region computes in ``model``, from what reaches it in the network
    with the layers before it fitted, so that it repairs their errors. A skip around the region stays exact. No labels
    are needed. With ``tuned``, a few epochs of gradient steps on the same images follow. The copy trains like any
    network: behind each fitted layer is a BatchNorm that leaves its function unchanged. `fold` merges the BatchNorm at
    the end, exactly.

    Args:
        model: a trained network that ``torch.fx`` can trace, in any mode; it is not modified. Its output is
            `[N, classes]`, or `[N, classes, *spatial]`.
        images: `[N, C, *spatial]`, in the size and normalisation that the network was trained on; every eighth is held
            out to measure on. 500 to 1,000 are enough for most networks.
        choices: the activations that go, a name or a tuple of names that are removed together, and the shape of the one
            layer that comes to stand there: a kernel size, such as 3 or (3, 1); "merged", the size of the exact merge;
            "depthwise"; or "none", a scale and a shift per channel. Or a plan, whose exact merges are then fitted too,
            with the shape "merged".
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
    require_images(traced, images, parts)
    _require_outputs(traced, images[:1])
    changed, nodes = twin(traced)
    sides = _sides(traced, changed, nodes, images, parts)
    removed = {node for part in parts for node in part.region.removed}
    fits = []
    for number, part in enumerate(parts, start=1):
        progress(f"layer {number} of {len(parts)}: {part.choice}")
        weights = solve(part.choice, partial(fit_layer, sides, part, flat_beyond(part, removed)))
        fits.append(_place(sides, nodes, part, weights))
        _require_close(fits[-1][1], force=force)
    for node in traced.graph.output_node().all_input_nodes:
        sides.original.to(node)
    expected = [_outputs(traced, values) for values in sides.original.batches]
    seen, held_out = (
        Outputs(some, tuple(map(torch.cat, zip(*outputs, strict=True))))
        for some, outputs in zip(split(images), (expected[: sides.fitted], expected[sides.fitted :]), strict=True)
    )
    batch = len(expected[0][0])
    del sides  # the values of both networks, before tuning needs memory
    if tuned:
        tune(changed, [placed for placed, _ in fits], seen, held_out, batch, progress)
    before = None
    if epochs:
        before = _distance(changed, held_out, batch)
        distil(changed, seen, held_out, batch, epochs, progress)
    reached = _distance(changed, held_out, batch)
    for name, module in changed.named_modules():
        module.training = modes.get(name, modes[""])
    progress("")
    layers = tuple(layer for _, layer in fits)
    note_fits(changed, tuple(map(_record, layers)))
    return FitResult(changed, layers, reached.divergence, reached.agreement, before)


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


def _require_outputs(traced: fx.GraphModule, image: Tensor) -> None:
    with torch.no_grad():
        outputs = tensors_of(traced(image))
    if not outputs or any(len(values) != len(image) for values in outputs):
        raise InputError("the network does not give tensors with an axis for the batch; fit the part of it that does")


def _outputs(traced: fx.GraphModule, values: dict[fx.Node, Any]) -> tuple[Tensor, ...]:
    """What the network gives, as tensors, where ``values`` are those of its nodes."""
    return tensors_of(fx.node.map_arg(traced.graph.output_node().args[0], values.__getitem__))


def _sides(
    traced: fx.GraphModule, changed: fx.GraphModule, nodes: dict[fx.Node, fx.Node], images: Tensor, parts: list[Part]
) -> Sides:
    """Both networks, run up to the first part."""
    largest = max(torch.Size(node.meta["shape"] or ()).numel() for node in traced.graph.nodes)
    batch = max(1, min(64, _BATCH_BYTES // (largest * images.element_size())))
    fitted, held_out = (list(some.split(batch)) for some in split(images))
    original = Running.of(traced, [*fitted, *held_out])
    original.to(parts[0].region.anchor)
    return Sides(original, original.fork(changed, nodes), nodes, len(fitted))


def _place(
    sides: Sides, nodes: dict[fx.Node, fx.Node], part: Part, weights: FittedWeights
) -> tuple[Placed, FittedLayer]:
    """Put a layer with ``weights`` in the place of ``part``, and run both networks up to what it gives."""
    output = part.region.output
    sides.original.to(output)
    sides.changed.forget([nodes[node] for node in part.replaced])
    placed = place(sides.changed.traced, nodes, part)
    fill(sides.changed.traced, placed, weights)
    sides.changed.to(nodes[output])
    error = RelativeError(part.merged.axes)
    for original, values in _held_out(sides):
        error.add(original[output], values[nodes[output]])
    return placed, FittedLayer(part.choice.activations, part.choice.shape, part.layers, placed.name, error.value)


def _require_close(layer: FittedLayer, *, force: bool) -> None:
    if not layer.error <= 1 and not force:
        raise CheckError(
            f"{' '.join(layer.activations)}: fitted with shape {layer.shape!r}, the error is {layer.error:.2f} times "
            "that of a constant; leave it out, give a larger shape, or force it"
        )


def _held_out(sides: Sides) -> list[tuple[dict[fx.Node, Any], dict[fx.Node, Any]]]:
    """The values of both networks for each batch that is not fitted on."""
    return list(zip(sides.original.batches, sides.changed.batches, strict=True))[sides.fitted :]
