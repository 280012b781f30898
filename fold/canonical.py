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
import operator
from collections import defaultdict
from collections.abc import Callable
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fold.foreign import is_batch_norm_act, is_same_padded
from fold.graph import Opaque, add_module, add_shapes, module_of, scope_of

_MODULES: dict[object, type[nn.Module]] = {
    F.relu: nn.ReLU, torch.relu: nn.ReLU, torch.relu_: nn.ReLU, "relu": nn.ReLU, "relu_": nn.ReLU,
    F.relu6: nn.ReLU6, F.leaky_relu: nn.LeakyReLU, F.elu: nn.ELU,
    F.tanh: nn.Tanh, torch.tanh: nn.Tanh, "tanh": nn.Tanh, "tanh_": nn.Tanh,
    F.sigmoid: nn.Sigmoid, torch.sigmoid: nn.Sigmoid, "sigmoid": nn.Sigmoid, "sigmoid_": nn.Sigmoid,
    F.silu: nn.SiLU, F.gelu: nn.GELU, F.hardswish: nn.Hardswish, F.hardtanh: nn.Hardtanh, F.mish: nn.Mish,
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
    _split_joined_layers(traced)
    _functionalise(traced)
    _modules_for_functions(traced, _MODULES | modules)
    _one_call_each(traced)
    add_shapes(traced, example)
    _slices_for_splits(traced)
    _modules_for_shuffles(traced)
    _flatten_for_reshapes(traced)
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
        if is_batch_norm_act(module):
            traced.set_submodule(node.target, _as(nn.BatchNorm2d, module))
            with traced.graph.inserting_after(node):
                drop = traced.graph.call_module(f"{node.target}.drop", (node,))
            with traced.graph.inserting_after(drop):
                act = traced.graph.call_module(f"{node.target}.act", (drop,))
            node.replace_all_uses_with(act, delete_user_cb=lambda user, drop=drop: user is not drop)
        elif is_same_padded(module):
            plain = _as(nn.Conv2d, module)
            plain.padding = (0, 0)
            traced.set_submodule(node.target, plain)
            pad = SamePad2d(plain.kernel_size, plain.stride, plain.dilation)
            with traced.graph.inserting_before(node):
                padded = traced.graph.call_module(add_module(traced, f"{node.target}_pad", pad), node.args)
            node.args = (padded,)


def _as(kind: type[nn.Module], module: nn.Module) -> nn.Module:
    """``module``, an instance of a subclass of ``kind``, as a plain ``kind`` with the same parameters and children."""
    plain = kind.__new__(kind)
    plain.__dict__ = module.__dict__
    return plain


def _functionalise(traced: fx.GraphModule) -> None:
    """Replace in-place operations: later readers of the overwritten tensor read the result instead."""
    order = {node: i for i, node in enumerate(traced.graph.nodes)}
    in_place = {module for module in traced.modules() if getattr(module, "inplace", False)}
    for node in list(traced.graph.nodes):
        ordinary = _out_of_place(node)
        if ordinary is not None:
            node.target = ordinary
        elif node.op == "call_function" and node.kwargs.get("inplace"):
            node.kwargs = {**node.kwargs, "inplace": False}
        elif module_of(node) not in in_place:
            continue
        if node.args and isinstance(node.args[0], fx.Node):
            at = order[node]
            node.args[0].replace_all_uses_with(node, delete_user_cb=lambda user, at=at: order[user] > at)
    for module in in_place:
        module.inplace = False


def _out_of_place(node: fx.Node) -> object:
    """The ordinary operation with the result of an in-place one (`add` for `add_`), None for any other."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if node.op not in ("call_function", "call_method") or not name.endswith("_") or name.endswith("__"):
        return None
    homes = (Tensor,) if node.op == "call_method" else (torch, F)
    ordinary = next((getattr(home, name[:-1]) for home in homes if hasattr(home, name[:-1])), None)
    if not callable(ordinary):
        return None
    return name[:-1] if node.op == "call_method" else ordinary


def _modules_for_functions(traced: fx.GraphModule, modules: dict[object, Callable[..., nn.Module]]) -> None:
    for node in list(traced.graph.nodes):
        make = modules.get(node.target) if node.op in ("call_function", "call_method") else None
        if make is None:
            continue
        names = list(inspect.signature(make.__init__ if isinstance(make, type) else make).parameters)[1:]
        options = dict(zip(names, node.args[1:], strict=False)) | dict(node.kwargs)
        x = node.args[0] if node.args else options.pop("input", None)
        options.pop("inplace", None)
        always_on = options.pop("training", False)  # a dropout that does not follow the mode of the network
        if always_on or not isinstance(x, fx.Node) or not set(options) <= set(names) or len(node.args) > len(names) + 1:
            continue  # not a plain activation of one tensor: stays a function, and so an anchor
        label = node.target if isinstance(node.target, str) else node.target.__name__
        _replace(traced, node, f"{scope_of(node)}{label}", make(**options), x)


def _replace(traced: fx.GraphModule, node: fx.Node, name: str, module: nn.Module, x: fx.Node) -> None:
    """Put a call of the new ``module`` on ``x`` in the place of ``node``."""
    with traced.graph.inserting_after(node):
        call = traced.graph.call_module(add_module(traced, name, module), (x,))
    node.replace_all_uses_with(call)
    traced.graph.erase_node(node)


def _one_call_each(traced: fx.GraphModule) -> None:
    """Give each further call of a module without state its own copy. Shared weights stay shared."""
    calls = defaultdict(list)
    for node in traced.graph.nodes:
        if node.op == "call_module" and not module_of(node).state_dict():
            calls[module_of(node)].append(node)
    for module, nodes in calls.items():
        for node in nodes[1:]:
            node.target = add_module(traced, node.target, copy.deepcopy(module))


def _slices_for_splits(traced: fx.GraphModule) -> None:
    """`chunk` and `split` on the channel axis: `x[:, start:stop]` for each part."""
    for node in list(traced.graph.nodes):
        if node.target not in (torch.chunk, torch.split, "chunk", "split") or not isinstance(node.args[0], fx.Node):
            continue
        dim = node.kwargs.get("dim", node.args[2] if len(node.args) > 2 else 0)
        parts = list(node.users)
        taken = all(
            part.target is operator.getitem and isinstance(part.args[1], int) and part.args[1] >= 0 for part in parts
        )
        if dim != 1 or not taken:
            continue
        stops = list(accumulate(size[1] for size in node.meta["parts"]))
        for part in parts:
            index = part.args[1]
            part.args = (node.args[0], (slice(None), slice(([0, *stops])[index], stops[index])))


def _modules_for_shuffles(traced: fx.GraphModule) -> None:
    """View as groups, swap the two channel axes, view back: a channel shuffle."""
    for back in list(traced.graph.nodes):
        swap = _reshaped(back)
        while swap is not None and swap.target == "contiguous" and len(swap.users) == 1:
            swap = swap.args[0]
        split = swap.args[0] if swap is not None and _swaps_channel_axes(swap) else None
        x = _reshaped(split) if split is not None else None
        if x is None or len(swap.users) > 1 or len(split.users) > 1:
            continue
        shape, grouped = x.meta["shape"], split.meta["shape"]
        if back.meta["shape"] == shape and (shape[0], *shape[2:]) == (grouped[0], *grouped[3:]) and len(shape) > 2:
            _replace(traced, back, f"{scope_of(back)}channel_shuffle", nn.ChannelShuffle(grouped[1]), x)


def _reshaped(node: fx.Node) -> fx.Node | None:
    """What ``node`` gives another shape, if that is all it does."""
    if node.target in ("view", "reshape", torch.reshape) and isinstance(node.args[0], fx.Node):
        return node.args[0] if node.args[0].meta.get("shape") else None
    return None


def _swaps_channel_axes(node: fx.Node) -> bool:
    return node.target in (torch.transpose, "transpose") and sorted(node.args[1:]) == [1, 2]


def _flatten_for_reshapes(traced: fx.GraphModule) -> None:
    """`x.view(x.size(0), -1)`: `flatten(x, 1)`."""
    for node in traced.graph.nodes:
        x = _reshaped(node)
        shape = node.meta.get("shape")
        if x is not None and len(shape) == 2 < len(x.meta["shape"]) and shape[0] == x.meta["shape"][0]:
            node.op, node.target, node.args, node.kwargs = "call_function", torch.flatten, (x, 1), {}
