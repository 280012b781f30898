"""From a module to a graph in which every activation is a module of its own, used at one place.

`torch.fx` records the calls; three rewrites make the record safe to edit:
functional activations and dropouts become modules, a module without state that is called from several places gets a
copy per call (`relu`, `relu_1`, ...), and in-place operations become ordinary ones with the same result.
"""

from __future__ import annotations

import copy
import inspect
import operator
from collections import Counter, defaultdict
from itertools import chain, count

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fold.errors import InputError

ACTIVATIONS: tuple[type[nn.Module], ...] = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.Tanh, nn.Sigmoid,
    nn.SiLU, nn.GELU, nn.Hardswish, nn.Hardtanh, nn.Mish,
)  # fmt: skip

_FUNCTIONS: dict[object, type[nn.Module]] = {
    F.relu: nn.ReLU, torch.relu: nn.ReLU, torch.relu_: nn.ReLU, "relu": nn.ReLU, "relu_": nn.ReLU,
    F.relu6: nn.ReLU6, F.leaky_relu: nn.LeakyReLU, F.elu: nn.ELU,
    F.tanh: nn.Tanh, torch.tanh: nn.Tanh, "tanh": nn.Tanh, "tanh_": nn.Tanh,
    F.sigmoid: nn.Sigmoid, torch.sigmoid: nn.Sigmoid, "sigmoid": nn.Sigmoid, "sigmoid_": nn.Sigmoid,
    F.silu: nn.SiLU, F.gelu: nn.GELU, F.hardswish: nn.Hardswish, F.hardtanh: nn.Hardtanh, F.mish: nn.Mish,
    F.dropout: nn.Dropout, F.dropout1d: nn.Dropout1d, F.dropout2d: nn.Dropout2d, F.dropout3d: nn.Dropout3d,
}  # fmt: skip


class Opaque(nn.Module):
    """Base of modules that tracing keeps whole, as it keeps the layers of ``torch.nn``."""


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, Opaque) or super().is_leaf_module(module, name)


def trace(model: nn.Module, example: Tensor) -> fx.GraphModule:
    """A copy of ``model`` as a graph, with the shape of every value in ``node.meta["shape"]``.

    ``torch.fx`` takes the path that the code takes in eval mode, and does not see that tensors share memory: writing
    to a view, or ``+=`` to a tensor that is read again under another name, gives another function. `fold.fold` finds
    that out.

    Args:
        model: any module that ``torch.fx`` can trace; it is not modified.
        example: one input batch `[batch, in, *spatial]`; only its shape, dtype and device matter.

    Raises:
        InputError: the module cannot be traced, or does not accept ``example``.
    """
    modes = {name: module.training for name, module in model.named_modules()}
    model = copy.deepcopy(model).eval()  # eval: running the example must not move BatchNorm's statistics
    tracer = _Tracer()
    try:
        graph = tracer.trace(model)
    except Exception as error:  # fx raises whatever the model's own code raises on a proxy
        raise InputError(
            f"{type(model).__name__} cannot be traced by torch.fx ({_first_line(error)}); "
            "pass the traceable part of it, for example its backbone"
        ) from error
    traced = fx.GraphModule(model, graph, class_name=type(model).__name__)
    _positional(traced)
    _functionalise(traced)
    _modules_for_functions(traced)
    _one_call_each(traced)
    traced.graph.lint()
    traced.recompile()
    _mark_shared(traced)
    add_shapes(traced, example)
    for name, module in traced.named_modules():
        module.training = modes.get(name, modes[""])
    return traced


def add_shapes(traced: fx.GraphModule, example: Tensor) -> None:
    """Run ``example`` through the graph and note each tensor's shape in ``node.meta["shape"]`` (None: not a tensor).

    Raises:
        InputError: the network does not accept ``example``.
    """
    try:
        with torch.no_grad():
            _NoteShapes(traced).run(example)
    except Exception as error:
        shape = list(example.shape)
        raise InputError(f"the network does not accept an input of shape {shape}: {_first_line(error)}") from error


class _NoteShapes(fx.Interpreter):  # torch's own ShapeProp prints a traceback where the input does not fit
    def run_node(self, node: fx.Node) -> object:
        value = super().run_node(node)
        node.meta["shape"] = tuple(value.shape) if isinstance(value, Tensor) else None
        return value


def module_of(node: fx.Node) -> nn.Module | None:
    """The module that a ``call_module`` node calls, else None."""
    return node.graph.owning_module.get_submodule(node.target) if node.op == "call_module" else None


def is_activation(node: fx.Node) -> bool:
    """Whether ``node`` applies an activation that a gate can replace."""
    module = module_of(node)
    return isinstance(module, ACTIVATIONS) or bool(getattr(module, "is_gate", False))


def add_module(traced: fx.GraphModule, name: str, module: nn.Module) -> str:
    """Add ``module`` under ``name``, with the first free suffix `_1`, `_2`, ... if that is taken; return its name."""
    taken = {path for path, _ in traced.named_modules(remove_duplicate=False)}
    taken |= {path for path, _ in traced.named_parameters()} | {path for path, _ in traced.named_buffers()}
    suffixed = (f"{name}_{i}" for i in count(1))
    free = next(candidate for candidate in chain([name], suffixed) if candidate not in taken)
    traced.add_submodule(free, module)
    return free


def _positional(traced: fx.GraphModule) -> None:
    """Call modules by position, so that `node.args[0]` is their input."""
    for node in traced.graph.nodes:
        if node.op == "call_module" and not node.args and len(node.kwargs) == 1:
            node.args, node.kwargs = tuple(node.kwargs.values()), {}


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


def _modules_for_functions(traced: fx.GraphModule) -> None:
    for node in list(traced.graph.nodes):
        kind = _FUNCTIONS.get(node.target) if node.op in ("call_function", "call_method") else None
        if kind is None:
            continue
        names = list(inspect.signature(kind.__init__).parameters)[1:]
        options = dict(zip(names, node.args[1:], strict=False)) | dict(node.kwargs)
        x = node.args[0] if node.args else options.pop("input", None)
        options.pop("inplace", None)
        always_on = options.pop("training", False)  # a dropout that does not follow the mode of the network
        if always_on or not isinstance(x, fx.Node) or not set(options) <= set(names):
            continue  # not a plain activation of one tensor: stays a function, and so an anchor
        scope = next(reversed(node.meta.get("nn_module_stack", {"": None})), "")
        label = node.target if isinstance(node.target, str) else node.target.__name__
        name = add_module(traced, f"{scope}.{label}".lstrip("."), kind(**options))
        with traced.graph.inserting_after(node):
            call = traced.graph.call_module(name, (x,))
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


def _mark_shared(traced: fx.GraphModule) -> None:
    """Note in ``node.meta["shared"]`` which calls use weights that another call, or the code itself, uses too."""
    weights = {}
    for node in traced.graph.nodes:
        if node.op == "call_module":
            weights[node] = {id(p) for p in module_of(node).parameters()}
        elif node.op == "get_attr":
            weights[node] = {id(operator.attrgetter(node.target)(traced))}
    users = Counter(weight for used in weights.values() for weight in used)
    for node, used in weights.items():
        node.meta["shared"] = any(users[weight] > 1 for weight in used)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
