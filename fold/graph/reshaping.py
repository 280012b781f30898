"""Splits, channel shuffles and reshapes in the one way in which the algebra knows them."""

from __future__ import annotations

import operator
from itertools import accumulate

import torch
from torch import fx, nn

from .nodes import calls_function, first_input, known_shape, options_of, replace_call, scope_of, shape_of


def slices_for_splits(traced: fx.GraphModule) -> None:
    """`chunk` and `split` on the channel axis: `x[:, start:stop]` for each part."""
    for node in list(traced.graph.nodes):
        x = first_input(node)
        if x is None or not calls_function(node, torch.chunk, torch.split, "chunk", "split"):
            continue
        indices = [part.args[1] if part.target is operator.getitem else None for part in node.users]
        taken = [index for index in indices if isinstance(index, int) and index >= 0]
        if options_of(node, "size", "dim").get("dim", 0) != 1 or len(taken) != len(indices):
            continue
        stops = list(accumulate(size[1] for size in node.meta["parts"]))
        for part, index in zip(list(node.users), taken, strict=True):
            part.args = (x, (slice(None), slice(([0, *stops])[index], stops[index])))


def modules_for_shuffles(traced: fx.GraphModule) -> None:
    """View as groups, swap the two channel axes, view back: a channel shuffle."""
    for back in list(traced.graph.nodes):
        swap = _reshaped(back)
        while swap is not None and swap.target == "contiguous" and len(swap.users) == 1:
            swap = first_input(swap)
        split = first_input(swap) if swap is not None and _swaps_channel_axes(swap) else None
        x = _reshaped(split) if split is not None else None
        if swap is None or split is None or x is None or len(swap.users) > 1 or len(split.users) > 1:
            continue
        shape, grouped = shape_of(x), shape_of(split)
        if shape_of(back) == shape and (shape[0], *shape[2:]) == (grouped[0], *grouped[3:]) and len(shape) > 2:
            replace_call(traced, back, f"{scope_of(back)}channel_shuffle", nn.ChannelShuffle(grouped[1]), x)


def _reshaped(node: fx.Node) -> fx.Node | None:
    """What ``node`` gives another shape, if that is all it does."""
    x = first_input(node)
    known = x is not None and known_shape(x) is not None
    return x if known and calls_function(node, "view", "reshape", torch.reshape) else None


def _swaps_channel_axes(node: fx.Node) -> bool:
    return calls_function(node, torch.transpose, "transpose") and set(node.args[1:]) == {1, 2}


def flatten_for_reshapes(traced: fx.GraphModule) -> None:
    """`x.view(x.size(0), -1)`: `flatten(x, 1)`."""
    for node in traced.graph.nodes:
        x = _reshaped(node)
        if x is not None and len(shape_of(node)) == 2 < len(shape_of(x)) and shape_of(node)[0] == shape_of(x)[0]:
            node.op, node.target, node.args, node.kwargs = "call_function", torch.flatten, (x, 1), {}
