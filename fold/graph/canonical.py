"""One way to write each thing in a graph, so that the algebra has to know only one.

Functional activations, average poolings and dropouts become modules; a module without state that is called from several
places gets a copy per call (`relu`, `relu_1`, ...); in-place operations become ordinary ones; splits become slices,
channel shuffles one module, reshapes that only flatten become flatten; timm's joined layers become two. The function
stays the same.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections import defaultdict
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from .foreign import is_batch_norm_act, is_same_padded
from .in_place import make_ordinary
from .nodes import (
    Opaque,
    add_module,
    add_shapes,
    caller_of,
    calls_function,
    first_input,
    module_of,
    options_of,
    replace_call,
    scope_of,
    target_of,
)
from .reshaping import flatten_for_reshapes, modules_for_shuffles, slices_for_splits

_MODULES: dict[object, type[nn.Module]] = {
    F.relu: nn.ReLU, torch.relu: nn.ReLU, torch.relu_: nn.ReLU, "relu": nn.ReLU, "relu_": nn.ReLU,
    F.relu6: nn.ReLU6, F.leaky_relu: nn.LeakyReLU, F.elu: nn.ELU,
    F.tanh: nn.Tanh, torch.tanh: nn.Tanh, "tanh": nn.Tanh, "tanh_": nn.Tanh,
    F.sigmoid: nn.Sigmoid, torch.sigmoid: nn.Sigmoid, "sigmoid": nn.Sigmoid, "sigmoid_": nn.Sigmoid,
    F.silu: nn.SiLU, F.gelu: nn.GELU, F.hardswish: nn.Hardswish, F.hardtanh: nn.Hardtanh, F.mish: nn.Mish,
    F.selu: nn.SELU, torch.selu: nn.SELU, F.celu: nn.CELU, torch.celu: nn.CELU, F.softplus: nn.Softplus,
    F.softsign: nn.Softsign, F.hardsigmoid: nn.Hardsigmoid, F.logsigmoid: nn.LogSigmoid, F.tanhshrink: nn.Tanhshrink,
    F.softshrink: nn.Softshrink, F.hardshrink: nn.Hardshrink,
    F.avg_pool1d: nn.AvgPool1d, F.avg_pool2d: nn.AvgPool2d, F.avg_pool3d: nn.AvgPool3d,
    F.dropout: nn.Dropout, F.dropout1d: nn.Dropout1d, F.dropout2d: nn.Dropout2d, F.dropout3d: nn.Dropout3d,
}  # fmt: skip


class SamePad2d(Opaque):
    """Zero padding by which a convolution gives `ceil(size / stride)` pixels, the odd one after (TensorFlow's "SAME").

    The amounts depend on the size of the input.
    """

    def __init__(self, kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]):
        super().__init__()
        self.kernel, self.stride, self.dilation = kernel, stride, dilation

    def amounts(self, size: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
        """(before, after) per axis for an input of ``size`` pixels per axis."""
        totals = [
            max((math.ceil(n / s) - 1) * s + d * (k - 1) + 1 - n, 0)
            for n, k, s, d in zip(size, self.kernel, self.stride, self.dilation, strict=True)
        ]
        return tuple((total // 2, total - total // 2) for total in totals)

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, [amount for lo_hi in reversed(self.amounts(tuple(x.shape[2:]))) for amount in lo_hi])

    def extra_repr(self) -> str:
        return f"kernel={self.kernel}, stride={self.stride}, dilation={self.dilation}"


def canonicalise(traced: fx.GraphModule, example: Tensor, modules: dict[object, Callable[..., nn.Module]]) -> None:
    """Rewrite ``traced`` in place, to the same function of ``example``.

    ``modules`` gives, for further functions than those of ``torch``, what makes the module that replaces a call.
    """
    _positional(traced)
    make_ordinary(traced, example)
    _split_joined_layers(traced)
    _activations_for_clamps(traced)
    _modules_for_functions(traced, _MODULES | modules)
    _one_call_each(traced)
    add_shapes(traced, example)
    slices_for_splits(traced)
    modules_for_shuffles(traced)
    flatten_for_reshapes(traced)
    traced.graph.eliminate_dead_code()
    traced.graph.lint()
    traced.recompile()


def _positional(traced: fx.GraphModule) -> None:
    """Call modules by position, so that `node.args[0]` is their input."""
    for node in traced.graph.nodes:
        if node.op == "call_module" and not node.args and len(node.kwargs) == 1:
            node.args, node.kwargs = tuple(node.kwargs.values()), {}


def _split_joined_layers(traced: fx.GraphModule) -> None:
    """timm's BatchNorm with activation, and its convolution with padding by size: two layers each, names kept."""
    for node in list(traced.graph.nodes):
        module = module_of(node)
        if module is not None and is_batch_norm_act(module):
            _split_batch_norm_act(traced, node, as_plain(nn.BatchNorm2d, module))
        elif module is not None and is_same_padded(module):
            _split_same_padded(traced, node, as_plain(nn.Conv2d, module))


def _split_batch_norm_act(traced: fx.GraphModule, node: fx.Node, norm: nn.BatchNorm2d) -> None:
    path = target_of(node)
    traced.set_submodule(path, norm)
    with traced.graph.inserting_after(node):
        drop = traced.graph.call_module(f"{path}.drop", (node,))
    with traced.graph.inserting_after(drop):
        act = traced.graph.call_module(f"{path}.act", (drop,))
    node.replace_all_uses_with(act, delete_user_cb=lambda user: user is not drop)


def _split_same_padded(traced: fx.GraphModule, node: fx.Node, conv: nn.Conv2d) -> None:
    conv.padding = (0, 0)
    traced.set_submodule(target_of(node), conv)
    pad = SamePad2d(conv.kernel_size, conv.stride, conv.dilation)
    with traced.graph.inserting_before(node):
        padded = traced.graph.call_module(add_module(traced, f"{target_of(node)}_pad", pad), node.args)
    node.args = (padded,)


Kind = TypeVar("Kind", bound=nn.Module)


def as_plain(kind: type[Kind], module: nn.Module) -> Kind:
    """``module``, an instance of a subclass of ``kind``, as a plain ``kind`` with the same parameters and children."""
    plain = kind.__new__(kind)
    plain.__dict__ = module.__dict__
    return plain


def _activations_for_clamps(traced: fx.GraphModule) -> None:
    """`x.clamp(min=0)`: ReLU; with another bound, Hardtanh."""
    for node in list(traced.graph.nodes):
        x = first_input(node)
        bounds: tuple[str, ...] = ()
        if calls_function(node, torch.clamp, "clamp", torch.clip, "clip"):
            bounds = ("min", "max")
        elif calls_function(node, torch.clamp_min, "clamp_min"):
            bounds = ("min",)
        options = options_of(node, *bounds) if bounds else {}
        low, high = options.get("min"), options.get("max")
        if x is None or x.op == "get_attr" or not isinstance(low, (int, float)) or not set(options) <= {"min", "max"}:
            continue
        if low == 0 and high is None:
            replace_call(traced, node, f"{scope_of(node)}clamp", nn.ReLU(), x)
        elif isinstance(high, (int, float)) and low < high:
            replace_call(traced, node, f"{scope_of(node)}clamp", nn.Hardtanh(low, high), x)


def _modules_for_functions(traced: fx.GraphModule, modules: dict[object, Callable[..., nn.Module]]) -> None:
    for node in list(traced.graph.nodes):
        make = modules.get(node.target) if node.op in ("call_function", "call_method") else None
        if make is None:
            continue
        names = list(inspect.signature(make).parameters)
        options = options_of(node, *names)
        x = node.args[0] if node.args else options.pop("input", None)
        options.pop("inplace", None)
        always_on = options.pop("training", False)  # a dropout that does not follow the mode of the network
        known = set(options) <= set(names) and len(node.args) <= len(names) + 1
        if always_on or not isinstance(x, fx.Node) or not known or node.all_input_nodes != [x]:
            continue  # not a plain activation of one tensor: stays a function, and so an anchor
        label = node.target if isinstance(node.target, str) else node.target.__name__
        replace_call(traced, node, f"{scope_of(node)}{label}", make(**options), x)


def _one_call_each(traced: fx.GraphModule) -> None:
    """Give each call of a module without state its own copy, where it is called. Shared weights stay shared.

    A module that is called from several others, such as one activation for all blocks, is named after each of them.
    """
    calls = defaultdict(list)
    for node in traced.graph.nodes:
        module = module_of(node)
        if module is not None and not module.state_dict():
            calls[module].append(node)
    for module, nodes in calls.items():
        callers = [caller_of(node) for node in nodes]
        is_shared = any(caller != callers[0] for caller in callers)
        for node, caller in zip(nodes, callers, strict=True):
            name = f"{caller}{target_of(node).rpartition('.')[2]}" if is_shared else target_of(node)
            if node is not nodes[0] or name != target_of(node):
                node.target = add_module(traced, name, copy.deepcopy(module))
