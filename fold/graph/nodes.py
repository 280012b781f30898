"""What every step asks of a graph and changes in it: modules, activations, shapes, new names."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from itertools import chain, count
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from layer_folding.errors import InputError

ACTIVATIONS: tuple[type[nn.Module], ...] = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.Tanh, nn.Sigmoid,
    nn.SiLU, nn.GELU, nn.Hardswish, nn.Hardtanh, nn.Mish, nn.SELU, nn.CELU, nn.Softplus, nn.Softsign,
    nn.Hardsigmoid, nn.LogSigmoid, nn.Tanhshrink, nn.Softshrink, nn.Hardshrink,
)  # fmt: skip

AveragePool = nn.AvgPool1d | nn.AvgPool2d | nn.AvgPool3d
AVERAGES = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)

Shape = tuple[int, ...]
# What is noted on a module: it stands where an activation was removed; it counts as an activation; it is an average
# pooling that is taken for the convolution that it is; it was fitted, and merges with what is exact around it.
Mark = Literal["removed", "is_activation", "as_convolution", "fitted"]


class Opaque(nn.Module):
    """Base of modules that tracing keeps whole, as it keeps the layers of ``torch.nn``."""


class Elementwise(Opaque):
    """An activation that is a plain function, named by the caller."""

    is_activation = True

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def mark(module: nn.Module, what: Mark) -> None:
    """Note ``what`` on ``module``, and so on its copies."""
    vars(module)[what] = True


def is_marked(module: nn.Module | None, what: Mark) -> bool:
    """Whether ``what`` is noted on ``module``."""
    return getattr(module, what, False) is True


def target_of(node: fx.Node) -> str:
    """The path of the module that ``node`` calls, or of the parameter that it reads."""
    return str(node.target)


def owner_of(node: fx.Node) -> nn.Module:
    """The network whose graph ``node`` is in."""
    assert node.graph.owning_module is not None
    return node.graph.owning_module


def module_of(node: fx.Node) -> nn.Module | None:
    """The module that a ``call_module`` node calls, else None."""
    if node.op != "call_module":
        return None
    module: nn.Module | None = owner_of(node)
    for name in target_of(node).split("."):  # asked so often that `get_submodule` takes a quarter of the time of a scan
        assert module is not None
        module = module._modules[name]
    return module


def tensor_of(node: object) -> Tensor | None:
    """The parameter or buffer that a ``get_attr`` node reads, else None."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    value = operator.attrgetter(target_of(node))(owner_of(node))
    return value.detach() if isinstance(value, Tensor) else None


def parameters_of(node: fx.Node) -> list[nn.Parameter]:
    """The parameters of the module that ``node`` calls; none where it calls none."""
    module = module_of(node)
    if module is None:
        return []
    # timm's BatchNorm has its activation as a child, which the graph calls by itself
    calls_children = not isinstance(module, nn.modules.batchnorm._BatchNorm)
    return list(module.parameters(recurse=calls_children))


def calls_function(node: fx.Node, *functions: object) -> bool:
    """Whether ``node`` calls one of ``functions``: functions, or names of methods of tensors."""
    return node.op in ("call_function", "call_method") and node.target in functions


def first_input(node: fx.Node) -> fx.Node | None:
    """The first argument of ``node``, if that is a value of the graph."""
    x = node.args[0] if node.args else None
    return x if isinstance(x, fx.Node) else None


def options_of(node: fx.Node, *names: str) -> dict[str, Any]:
    """The arguments of a call behind the first, which ``names`` lists in their order, as far as they are given."""
    return dict(zip(names, node.args[1:], strict=False)) | dict(node.kwargs)


def known_shape(node: fx.Node) -> Shape | None:
    """The shape of the tensor that ``node`` gives; None where it gives no tensor, or has not been run yet."""
    return node.meta.get("shape")


def shape_of(node: fx.Node) -> Shape:
    """The shape of the tensor that ``node`` gives; for nodes that are known to give a tensor."""
    return node.meta["shape"]


def is_shared(node: fx.Node) -> bool:
    """Whether ``node`` uses weights that another call, or the code itself, uses too."""
    return bool(node.meta.get("shared"))


def evaluate(node: fx.Node, values: Mapping[fx.Node, object], module: Callable[..., Any] | None = None) -> Any:
    """The output of ``node`` for given outputs of the nodes that it reads; ``module`` in place of the one it calls."""
    read: Callable[[fx.Node], Any] = values.__getitem__
    args: Any = fx.node.map_arg(node.args, read)
    kwargs: Any = fx.node.map_arg(node.kwargs, read)
    if callable(node.target):
        return node.target(*args, **kwargs)
    if node.op == "call_method":
        return getattr(args[0], node.target)(*args[1:], **kwargs)
    call = module_of(node) if module is None else module
    assert call is not None
    return call(*args, **kwargs)


def is_activation(node: fx.Node) -> bool:
    """Whether ``node`` applies an activation that a gate can replace, at this place only."""
    module = module_of(node)
    return (isinstance(module, ACTIVATIONS) or is_marked(module, "is_activation")) and not is_shared(node)


def describe(node: fx.Node) -> str:
    """How reports call a node: `layer1.0.relu (ReLU)`, `max_pool2d`, `input x`."""
    if node.op == "call_module":
        return f"{node.target} ({type(module_of(node)).__name__})"
    if node.op == "placeholder":
        return f"input {node.name}"
    return node.name


def has_channels_last(activation: fx.Node) -> bool:
    """Whether the value of an ``activation`` has its channels on its last axis: a linear layer makes it or reads it."""
    before, after = (_past_shape_keepers(activation, follow) for follow in (first_input, _only_user))
    return any(node is not None and isinstance(module_of(node), nn.Linear) for node in (before, after))


def _past_shape_keepers(node: fx.Node, follow: Callable[[fx.Node], fx.Node | None]) -> fx.Node | None:
    found = follow(node)
    while found is not None and isinstance(module_of(found), (nn.Identity, nn.Dropout, nn.LayerNorm)):
        found = follow(found)
    return found


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def channel_axis(node: fx.Node, axes: int) -> int:
    """The axis of the channels in a value with ``axes`` spatial axes (0: channels last)."""
    return 1 if axes else len(shape_of(node)) - 1


def channels(node: fx.Node, axes: int) -> int:
    """The number of channels of the tensor that ``node`` gives."""
    return shape_of(node)[channel_axis(node, axes)]


def positions(node: fx.Node, axes: int) -> Shape:
    """What a layer runs over in the tensor that ``node`` gives, per axis: pixels, or tokens where channels are last."""
    return shape_of(node)[2:] if axes else shape_of(node)[1:-1]


def add_module(traced: fx.GraphModule, name: str, module: nn.Module) -> str:
    """Add ``module`` under ``name``, with the first free suffix `_1`, `_2`, ... if that is taken; return its name."""
    taken = {path for path, _ in traced.named_modules(remove_duplicate=False)}
    taken |= {path for path, _ in traced.named_parameters()} | {path for path, _ in traced.named_buffers()}
    suffixed = (f"{name}_{i}" for i in count(1))
    free = next(candidate for candidate in chain([name], suffixed) if candidate not in taken)
    traced.add_submodule(free, module)
    return free


def replace_call(traced: fx.GraphModule, node: fx.Node, name: str, module: nn.Module, x: fx.Node) -> None:
    """Put a call of the new ``module`` on ``x`` in the place of ``node``."""
    with traced.graph.inserting_after(node):
        call = traced.graph.call_module(add_module(traced, name, module), (x,))
    node.replace_all_uses_with(call)
    traced.graph.erase_node(node)


def scope_of(node: fx.Node) -> str:
    """The path, with a dot at its end, of the module whose code made the call ``node``; empty for the network's own."""
    return _dotted(_callers(node))


def caller_of(node: fx.Node) -> str:
    """The path, with a dot at its end, of the module whose code calls the module ``node``; empty for the network."""
    stack = _callers(node)
    return _dotted(stack[:-1] if stack and stack[-1] == node.target else stack)


def _callers(node: fx.Node) -> list[str]:
    """The paths of the modules in whose code a call was made, the innermost last; torch.fx marks later calls by @N."""
    return [path.partition("@")[0] for path in node.meta.get("nn_module_stack", {})]


def _dotted(stack: list[str]) -> str:
    return f"{stack[-1]}." if stack and stack[-1] else ""


def add_shapes(traced: fx.GraphModule, example: Tensor) -> object:
    """Run ``example`` through the graph and note each tensor's shape in ``node.meta["shape"]`` (None: not a tensor).

    Of a list of tensors, ``node.meta["parts"]`` gets the shapes. It runs in eval mode, or the example would move the
    statistics of BatchNorm; modes are as before afterwards. Returns the output of the graph.

    Raises:
        InputError: the network does not accept ``example``.
    """
    training = [module for module in traced.modules() if module.training]
    try:
        with torch.no_grad():
            return _NoteShapes(traced.eval()).run(example)
    except Exception as error:
        raise not_accepted(example, error) from error
    finally:
        for module in training:
            module.training = True


def not_accepted(x: Tensor, error: Exception) -> InputError:
    """The error for an input that a network does not accept."""
    return InputError(f"the network does not accept an input of shape {list(x.shape)}: {first_line(error)}")


def random_like(example: Tensor) -> Tensor:
    """Normal random values, the same each time, of the shape, dtype and device of ``example``; of integers itself."""
    if not example.is_floating_point():
        return example.clone()
    generator = torch.Generator().manual_seed(0)
    return torch.randn(example.shape, generator=generator, dtype=torch.float64).to(example)


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
