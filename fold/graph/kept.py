"""Modules whose code cannot be recorded stay whole in a graph; which they are, and why, is noted on the graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import fx, nn

from layer_folding.errors import InputError

from .nodes import ACTIVATIONS

_KEY = "layer_folding.kept"
WEIGHTED = (nn.modules.conv._ConvNd, nn.Linear)


def note_kept(traced: fx.GraphModule, kept: Mapping[str, str]) -> None:
    """Note the modules that are ``kept`` whole, by path, with the reasons.

    Raises InputError where no activation is outside of them: there is nothing to do with such a network.
    """
    if not kept:
        return
    called = {str(node.target) for node in traced.graph.nodes if node.op == "call_module"}
    inside = {path: reason for path, reason in kept.items() if path in called}
    outside = [path for path, module in traced.named_modules() if isinstance(module, ACTIVATIONS) and path in called]
    if inside and not outside:
        path, reason = next(iter(inside.items()))
        raise InputError(
            f"{type(traced).__name__} cannot be traced: {path} stays whole ({reason}), and no activation is outside "
            "of it; see docs/own-model.md, or pass the traceable part of the network"
        )
    traced.meta[_KEY] = inside


def kept_layers(traced: fx.GraphModule) -> Iterator[tuple[str, str]]:
    """The layers inside modules that are kept whole, by path, each with the reason as a sentence."""
    for path, reason in traced.meta.get(_KEY, {}).items():
        for name, module in traced.get_submodule(path).named_modules(prefix=path):
            if isinstance(module, WEIGHTED):
                yield name, f"{path} stays whole, because its code cannot be recorded: {reason}"
