"""What every step asks of a graph and changes in it: modules, activations, shapes, new names."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from itertools import chain, count

import torch
from torch import Tensor, fx, nn

from fold.errors import InputError

ACTIVATIONS: tuple[type[nn.Module], ...] = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.Tanh, nn.Sigmoid,
    nn.SiLU, nn.GELU, nn.Hardswish, nn.Hardtanh, nn.Mish,
)  # fmt: skip

AVERAGES = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)


class Opaque(nn.Module):
    """Base of modules that tracing keeps whole, as it keeps the layers of ``torch.nn``."""


class Elementwise(Opaque):
    """An activation that is a plain function, named by the caller."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.is_activation = True

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def module_of(node: fx.Node) -> nn.Module | None:
    """The module that a ``call_module`` node calls, else None."""
    return node.graph.owning_module.get_submodule(node.target) if node.op == "call_module" else None


def tensor_of(node: object) -> Tensor | None:
    """The parameter or buffer that a ``get_attr`` node reads, else None."""
    is_read = isinstance(node, fx.Node) and node.op == "get_attr"
    value = operator.attrgetter(node.target)(node.graph.owning_module) if is_read else None
    return value.detach() if isinstance(value, Tensor) else None


def evaluate(node: fx.Node, values: Mapping[fx.Node, object], module: Callable[..., object] | None = None) -> Tensor:
    """The output of ``node`` for given outputs of the nodes that it reads; ``module`` in place of the one it calls."""
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
    if node.op == "call_module":
        return (module or module_of(node))(*args, **kwargs)
    if node.op == "call_method":
        return getattr(args[0], node.target)(*args[1:], **kwargs)
    return node.target(*args, **kwargs)


def is_activation(node: fx.Node) -> bool:
    """Whether ``node`` applies an activation that a gate can replace, at this place only."""
    module = module_of(node)
    known = isinstance(module, ACTIVATIONS) or getattr(module, "is_activation", False)
    return bool(known) and not node.meta.get("shared")


def describe(node: fx.Node) -> str:
    """How reports call a node: `layer1.0.relu (ReLU)`, `max_pool2d`, `input x`."""
    if node.op == "call_module":
        return f"{node.target} ({type(module_of(node)).__name__})"
    if node.op == "placeholder":
        return f"input {node.name}"
    return node.name


def channel_axis(node: fx.Node, axes: int) -> int:
    """The axis of the channels in a value with ``axes`` spatial axes (0: channels last)."""
    return 1 if axes else len(node.meta["shape"]) - 1


def channels(node: fx.Node, axes: int) -> int:
    """The number of channels of the tensor that ``node`` gives."""
    return node.meta["shape"][channel_axis(node, axes)]


def positions(node: fx.Node, axes: int) -> tuple[int, ...]:
    """What a layer runs over in the tensor that ``node`` gives, per axis: pixels, or tokens where channels are last."""
    return node.meta["shape"][2:] if axes else node.meta["shape"][1:-1]


def add_module(traced: fx.GraphModule, name: str, module: nn.Module) -> str:
    """Add ``module`` under ``name``, with the first free suffix `_1`, `_2`, ... if that is taken; return its name."""
    taken = {path for path, _ in traced.named_modules(remove_duplicate=False)}
    taken |= {path for path, _ in traced.named_parameters()} | {path for path, _ in traced.named_buffers()}
    suffixed = (f"{name}_{i}" for i in count(1))
    free = next(candidate for candidate in chain([name], suffixed) if candidate not in taken)
    traced.add_submodule(free, module)
    return free


def scope_of(node: fx.Node) -> str:
    """The path, with a dot at its end, of the module whose code made the call ``node``; empty for the network's own."""
    scope = next(reversed(node.meta.get("nn_module_stack", {"": None})), "")
    return f"{scope}." if scope else ""


def add_shapes(traced: fx.GraphModule, example: Tensor) -> None:
    """Run ``example`` through the graph and note each tensor's shape in ``node.meta["shape"]`` (None: not a tensor).

    Of a list of tensors, ``node.meta["parts"]`` gets the shapes. It runs in eval mode, or the example would move the
    statistics of BatchNorm; modes are as before afterwards.

    Raises:
        InputError: the network does not accept ``example``.
    """
    training = [module for module in traced.modules() if module.training]
    try:
        with torch.no_grad():
            _NoteShapes(traced.eval()).run(example)
    except Exception as error:
        shape = list(example.shape)
        raise InputError(f"the network does not accept an input of shape {shape}: {first_line(error)}") from error
    finally:
        for module in training:
            module.training = True


class _NoteShapes(fx.Interpreter):  # torch's own ShapeProp prints a traceback where the input does not fit
    def run_node(self, node: fx.Node) -> object:
        value = super().run_node(node)
        node.meta["shape"] = tuple(value.shape) if isinstance(value, Tensor) else None
        if isinstance(value, (list, tuple)) and all(isinstance(part, Tensor) for part in value):
            node.meta["parts"] = [tuple(part.shape) for part in value]
        return value


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its name where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
