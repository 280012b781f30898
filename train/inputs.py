"""The network and the data set that the settings of a stage mean."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from layer_folding.errors import InputError
from layer_folding.fold import model_names
from layer_folding.fold.models.efficientnet_names import with_timm_names
from layer_folding.fold.models.layouts import split_gates, variant, with_our_names
from layer_folding.fold.models.weights import apply_weights, load_weights
from layer_folding.recipes import Network

from . import data
from .settings import DataSettings


@dataclass(frozen=True)
class Start:
    """The network to begin with: ``built`` rebuilds ``model``, and ``gates`` are those that came with its weights."""

    model: nn.Module
    built: Network
    gates: dict[str, float]


def lasting(settings: DataSettings) -> DataSettings:
    """The same images, from whatever folder the command is given next time."""
    if settings.data in data.NAMES:
        return settings
    return replace(settings, data=str(data.folder_of(settings.data).resolve()))


def dataset(settings: DataSettings) -> data.Dataset:
    """The data set that ``settings`` mean. Raises InputError as `train.data.load` does."""
    return data.normalised(data.load(settings.data, settings.size), settings.mean, settings.std)


def network(spec: str, dataset: data.Dataset, weights: Path | None, seed: int) -> Start:
    """The network ``spec`` for ``dataset``, with the weights in a file, or with fresh ones from ``seed``.

    Raises InputError for an unknown network, one that does not take such images, and weights that do not fit it.
    """
    full, file = model_names.resolve(spec), model_names.weights_file(spec)
    weights = weights or file
    state: dict[str, Tensor] | None = None
    gates: dict[str, float] = {}
    if weights is not None:
        state, gates = split_gates(load_weights(weights))
    classes = len(dataset.classes) or _outputs(state or {})
    arguments = model_names.arguments_for(full, dataset.shape, classes, trust=spec)
    if file is not None:
        full = f"onnx:{file.name}"  # the arguments have the graph
    library, _, name = full.partition(":")
    if state is not None and library == "layer_folding":
        state = with_our_names(name, state)
        arguments |= variant(name, state)
    torch.manual_seed(seed)
    model = model_names.build(full, arguments, trust=spec)
    if weights is not None and state is not None:
        apply_weights(model, with_timm_names(full, state, model.state_dict()), weights)
    _check(model, full, dataset)
    return Start(model, Network(full, arguments), gates)


def _outputs(state: Mapping[str, Tensor]) -> int | None:
    """The values that the last layer in ``state`` computes; None where there is no layer."""
    layers = [value for value in state.values() if value.ndim > 1]
    return len(layers[-1]) if layers else None


def _check(model: nn.Module, spec: str, dataset: data.Dataset) -> None:
    """Raise InputError where ``model`` does not give one logit a class for an image of ``dataset``.

    What it gives for images without labels is for `train.labelling`.
    """
    images = f"images {list(dataset.shape)}"
    model.eval()
    try:
        with torch.no_grad():
            logits = model(torch.zeros(1, *dataset.shape))
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise InputError(
            f"model {spec!r}: does not take {images} ({error}); give another --size or --data, or a "
            "network for these images"
        ) from error
    model.train()
    classes = len(dataset.classes)
    if classes and (not isinstance(logits, Tensor) or logits.shape != (1, classes)):
        given = f"a tensor {list(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(
            f"model {spec!r}: gives {given} for one of the {images}, not [1, {classes}] logits; let its "
            "function take num_classes, or give images without labels, in a folder without train and test"
        )
