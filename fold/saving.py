"""Save a network with the recipe that rebuilds it, and load it again: for training loops that are not ours.

lf.save("net.safetensors", result.model, network="resnet20", example=example)
model = lf.load("net.safetensors")
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from layer_folding.errors import InputError
from layer_folding.recipes import Network, Recipe, to_json
from layer_folding.stages import FINETUNE, FOLD, PREFOLD, PRETRAIN

from . import checkpoints
from .gating import gates
from .graph.comparing import relative
from .graph.nodes import is_activation
from .graph.noted_fits import fits_of
from .graph.preparing import whole_copy
from .graph.tracing import trace
from .merge.rewriting import replace_regions
from .model_names import arguments_for, resolve
from .regions.finding import exact_regions
from .regions.padding import hoist_padding
from .replaying import fitted, replay

TOLERANCE = 1e-5  # of the largest output; what is rebuilt has the same weights, and rounds the same way or nearly so


def save(
    path: str | Path,
    model: nn.Module,
    *,
    network: str,
    example: Tensor,
    arguments: Mapping[str, Any] | None = None,
    average_pooling: bool = False,
) -> None:
    """Write ``model`` to ``path``, a .safetensors file from which `load` rebuilds it.

    ``model`` is a network as ``network`` builds it, or what `fit`, `linearize`, `harden`, `hoist_padding` and `fold`
    made of one, `fit` first. `save` finds out which of these steps were used. It rebuilds the network and compares the
    two before the file appears.

    Example:
        >>> import torch
        >>> import layer_folding as lf
        >>> from layer_folding.fold.models import build
        >>> model, example = build("mlp-relu"), torch.zeros(1, 3, 32, 32)
        >>> hard, _ = lf.hoist_padding(lf.harden(lf.linearize(model, example), threshold=0.0), example)
        >>> lf.save("net.safetensors", lf.fold(hard.eval(), example).model, network="mlp-relu", example=example)
        >>> lf.depth(lf.load("net.safetensors"), example)
        1

    Args:
        path: the file to write.
        model: the network; it is not modified. Only its parameters and buffers are written.
        network: the name of the function that builds the original network: one of ours such as "resnet20",
            "torchvision:NAME", "timm:NAME", or "package.module:function" of your own, which has to be importable.
        example: one input batch `[batch, in, *spatial]` of the shape that the steps were given.
        arguments: what that function is called with, JSON values; by default ``num_classes``, ``in_channels`` and
            ``size``, where the function takes them, are read off ``model`` and ``example``.
        average_pooling: the steps were told to merge average poolings.

    Raises:
        InputError: ``network`` cannot be built, or the steps do not make ``model`` out of it.
    """
    model = whole_copy(model).cpu()
    for name, value in model.state_dict().items():
        if value.is_floating_point() and value.dtype != torch.float32:
            raise InputError(f"{path}: {name} is {value.dtype}, and a checkpoint holds float32; save model.float()")
    if arguments is None:
        arguments = arguments_for(network, example.shape[1:], _classes(model, example), trust=network)
    try:
        start = Recipe(
            PRETRAIN.network,
            Network(resolve(network), dict(arguments)),
            tuple(example.shape[1:]),
            average_pooling=average_pooling,
        )
        to_json(start)
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: cannot be written down ({error}); give JSON values as arguments") from error
    for recipe in _recipes(start, model, network):
        if _rebuilds(recipe, model, network):
            checkpoints.save(path, model, recipe)
            return
    raise InputError(
        f"{path}: fit, linearize, harden, hoist_padding and fold do not make this network out of {network!r}; give the "
        "network, the arguments and the example that it was made from"
    )


def load(path: str | Path, *, trust: str | None = None) -> nn.Module:
    """The network of a checkpoint that `save` or a stage wrote, or of an ONNX file, in eval mode on the CPU.

    Example:
        >>> import torch
        >>> import layer_folding as lf
        >>> network, arguments = "torch.nn:Linear", {"in_features": 4, "out_features": 2}
        >>> model, example = torch.nn.Linear(**arguments), torch.zeros(1, 4)
        >>> lf.save("net.safetensors", model, network=network, arguments=arguments, example=example)
        >>> lf.load("net.safetensors", trust=network)
        Linear(in_features=4, out_features=2, bias=True)

    Args:
        path: the checkpoint, or an ONNX file with one float32 image as input.
        trust: code of your own, "package.module:function", that the file may call; no other code is imported.

    Raises:
        InputError: the file is missing or damaged, or asks for code that is not trusted; an ONNX file has an operator
            that cannot be converted.
    """
    if Path(path).suffix.lower() == ".onnx":
        from .onnx_in import load as load_onnx  # checkpoints do not need what it needs

        return load_onnx(path)
    recipe, weights = checkpoints.read(path)
    if recipe.gate is not None and recipe.planned:
        raise InputError(f"{path}: its gates open on a schedule; `layer-folding finetune` hardens it")
    return checkpoints.rebuild(path, recipe, weights, trust)


def _classes(model: nn.Module, example: Tensor) -> int | None:
    """The number of classes of a classifier, None for a network that is none."""
    with torch.no_grad():
        output = model(example[:1].float().cpu())
    return output.shape[1] if isinstance(output, Tensor) and output.ndim == 2 else None


def _recipes(start: Recipe, model: nn.Module, trust: str) -> Iterator[Recipe]:
    """What ``model`` could be, the simplest first. Raises InputError where the original network cannot be built."""
    fits = fits_of(model)
    open_gates = {name: gate.alpha.item() for name, gate in gates(model).items()}
    if open_gates:
        linear = "affine" if any(gate.affine for gate in gates(model).values()) else "identity"
        for gate in ("foldable", "all"):
            yield dataclasses.replace(
                start, stage=PREFOLD.network, fitted=fits, gate=gate, linear=linear, gates=open_gates
            )
        return
    if not fits:
        yield start
    start = dataclasses.replace(start, stage=FINETUNE.network, fitted=fits)
    pooling = start.average_pooling
    example = torch.zeros(1, *start.input_shape)
    traced = trace(fitted(start, trust), example, average_pooling=pooling)
    there = {node.target for node in trace(model, example, average_pooling=pooling).graph.nodes if is_activation(node)}
    removed = tuple(str(n.target) for n in traced.graph.nodes if is_activation(n) and n.target not in there)
    for linear in ("affine", "identity"):
        yield from _hardened(dataclasses.replace(start, linear=linear, removed=removed), trust)


def _hardened(recipe: Recipe, trust: str) -> Iterator[Recipe]:
    """What became of a network with removed activations: nothing more, or it was hoisted, or folded, or both."""
    example, pooling = torch.zeros(1, *recipe.input_shape), recipe.average_pooling
    bare = replay(recipe, trust)
    hoisted, regions = hoist_padding(bare, example, average_pooling=pooling)
    after = dataclasses.replace(recipe, hoisted=tuple(region.layers for region in regions))
    yield from (recipe, after)
    for before, network in ((recipe, bare), (after, hoisted)):
        yield dataclasses.replace(before, stage=FOLD.network, folded=_merged(network, example, pooling))


def _merged(network: nn.Module, example: Tensor, pooling: bool) -> dict[str, tuple[str, ...]]:
    traced = trace(network, example, average_pooling=pooling)
    _, layers = replace_regions(traced, exact_regions(traced).found)
    return {name: tuple(str(node.target) for node in layer.region.layers) for name, layer in layers.items()}


def _rebuilds(recipe: Recipe, model: nn.Module, trust: str) -> bool:
    """Whether ``recipe`` gives ``model``: the same weights by name and shape, and the same outputs."""
    built, weights = replay(recipe, trust), model.state_dict()
    own = built.state_dict()
    if own.keys() != weights.keys() or any(own[name].shape != value.shape for name, value in weights.items()):
        return False
    built.load_state_dict(weights)
    x = torch.randn(2, *recipe.input_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return relative(built.eval()(x), model(x)) <= TOLERANCE
