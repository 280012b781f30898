"""What a choice means in a graph: the region that its activations open, what of it is fitted, and what stays exact."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from torch import fx

from layer_folding.errors import InputError
from layer_folding.fit_choices import NONE, Choice

from ..algebra.affine_conv import AffineConv
from ..algebra.commuting import axes_after
from ..algebra.geometry import Geometry
from ..algebra.layers import affine_op, is_addition, is_concatenation, is_passthrough, is_weighted, operands
from ..algebra.operations import AffineOp
from ..graph.nodes import channels, describe, is_activation, positions, shape_of, target_of
from ..merge.composing import compose
from ..regions.finding import Region, hoisted_regions, layer_macs
from .layer_shapes import Crop, crop


@dataclass(frozen=True)
class Part:
    """A region of a graph in which one layer comes to stand for everything that is not exact.

    ``region.output`` is the sum of the values in ``exact``, which are computed as before, and of those in ``fitted``,
    which one layer of the geometry ``crop.geometry`` replaces (None: nothing does). ``merged`` is the geometry that an
    exact merge of the fitted values would have; ``skips`` are the geometries of the values in ``exact``.
    """

    choice: Choice
    region: Region
    exact: tuple[fx.Node, ...]
    fitted: tuple[fx.Node, ...]
    merged: Geometry
    skips: tuple[Geometry, ...]
    crop: Crop | None

    @property
    def layers(self) -> tuple[str, ...]:
        """The paths of the weighted layers that are replaced."""
        return tuple(target_of(node) for node in self.replaced if is_weighted(node))

    @property
    def replaced(self) -> tuple[fx.Node, ...]:
        """The nodes that go, in graph order."""
        stay: set[fx.Node] = set().union(*(behind(self.region, term) for term in self.exact))
        return tuple(node for node in self.region.nodes if node not in stay)

    @property
    def macs(self) -> tuple[int, int]:
        """Multiply-accumulates per image of the region before, and behind the fit when the network has been folded.

        Skips merge into the fitted layer, except where that takes more multiply-accumulates.
        """
        stay = sum(layer_macs(node) for node in self.region.layers if node not in self.replaced)
        if self.crop is None:
            return self.region.macs[0], stay
        pixels = positions(self.region.output, self.merged.axes)
        whole = functools.reduce(Geometry.plus, self.skips, self.crop.geometry)
        return self.region.macs[0], min(whole.macs(pixels), self.crop.geometry.macs(pixels) + stay)

    def prior(self, maps: Mapping[fx.Node, AffineConv]) -> AffineConv:
        """The exact merge of the fitted values with ``maps`` in place of the activations, cropped to the shape.

        It is wrong at the borders where layers pad inside the region.
        """
        assert self.crop is not None
        values = []
        for term in self.fitted:
            inside = behind(self.region, term)
            nodes = tuple(node for node in self.region.nodes if node in inside)
            values.append(compose(replace(self.region, output=term, nodes=nodes), maps))
        return self.crop.of(functools.reduce(AffineConv.plus, values))


def find_parts(traced: fx.GraphModule, choices: Iterable[Choice]) -> list[Part]:
    """The parts of the graph ``traced`` that ``choices`` are about, from the input to the output.

    Raises:
        InputError: a name is no activation, activations have no region in common, a shape does not fit, or two
            choices have a layer in common.
    """
    activations = {target_of(node): node for node in traced.graph.nodes if is_activation(node)}
    parts = [_part(traced, activations, choice) for choice in choices]
    order = {node: i for i, node in enumerate(traced.graph.nodes)}
    parts.sort(key=lambda part: order[part.region.output])
    owner: dict[fx.Node, Part] = {}
    for part in parts:
        for node in part.region.nodes:
            if node in owner:
                raise InputError(
                    f"{owner[node].choice.names} and {part.choice.names} both replace {describe(node)}; give their "
                    "activations as one choice, or leave one out"
                )
            owner[node] = part
    return parts


def _part(traced: fx.GraphModule, activations: Mapping[str, fx.Node], choice: Choice) -> Part:
    for name in choice.activations:
        if name not in activations:
            raise InputError(f"activation {name!r} is not in the network; its activations: {', '.join(activations)}")
    removed = {activations[name] for name in choice.activations}
    opened = [region for region in hoisted_regions(traced, removed).found if removed & set(region.removed)]
    if len(opened) > 1:
        raise InputError(
            f"{choice.names}: these activations are in {len(opened)} regions; give a choice for each of them"
        )
    alone = sorted(target_of(node) for node in removed.difference(*(region.removed for region in opened)))
    if alone:
        raise InputError(
            f"{choice.names}: no single layer can replace the layers around {', '.join(alone)}; `layer-folding scan` "
            "lists what can be removed together"
        )
    return part_of(opened[0], choice)


def part_of(region: Region, choice: Choice) -> Part:
    """What ``choice`` means in ``region``, in which its activations are removed.

    Raises:
        InputError: the shape does not fit.
    """
    removed = {node for node in region.removed if node.target in choice.activations}
    exact, fitted = _terms(region, removed)
    geometries = _geometries(region)
    merged = functools.reduce(Geometry.plus, (geometries[term] for term in fitted))
    skips = tuple(geometries[term] for term in exact)
    if choice.shape != NONE:
        return Part(choice, region, exact, fitted, merged, skips, crop(merged, choice.shape, choice.names))
    same = shape_of(region.anchor) == shape_of(region.output) and not region.before
    if merged.axes == 0 and len(shape_of(region.output)) > 2:
        raise InputError(f"{choice.names}: shape none is not for tokens; give shape 1")
    if not exact and not same:
        raise InputError(
            f"{choice.names}: shape none needs a skip, or an output of the size of the input, but "
            f"{list(shape_of(region.anchor)[1:])} becomes {list(shape_of(region.output)[1:])}; give a kernel size"
        )
    return Part(choice, region, exact, fitted, merged, skips, None)


def _terms(region: Region, removed: set[fx.Node]) -> tuple[tuple[fx.Node, ...], tuple[fx.Node, ...]]:
    """The values whose sum the output is: those without a removed activation behind them, and the others.

    Where no layer is behind the others alone, none would be replaced: then the whole sum is fitted.
    """
    everything = (), (region.output,)
    if region.before:
        return everything
    inside = set(region.nodes)

    def split(node: fx.Node) -> list[fx.Node]:
        if node in inside and is_addition(node) and (node is region.output or len(node.users) == 1):
            return [term for x in operands(node) for term in split(x)]
        return [node]

    terms = split(region.output)
    exact = tuple(term for term in terms if not removed & behind(region, term))
    fitted = tuple(term for term in terms if term not in exact)
    stay = set().union(*(behind(region, term) for term in exact))
    gone = set().union(*(behind(region, term) for term in fitted)) - stay
    return (exact, fitted) if any(map(is_weighted, gone)) else everything


def behind(region: Region, value: fx.Node) -> set[fx.Node]:
    """The nodes of ``region`` from which ``value`` is computed, itself included."""
    inside, queue = set(region.nodes), [value]
    found: set[fx.Node] = set()
    while queue:
        node = queue.pop()
        if node in inside and node not in found:
            found.add(node)
            queue.extend(node.all_input_nodes)
    return found


def axes_in(region: Region) -> dict[fx.Node, int]:
    """How many spatial axes each value of ``region`` has behind its channels; 0 where these are last."""
    return {node: geometry.axes for node, geometry in _geometries(region).items()}


def _geometries(region: Region) -> dict[fx.Node, Geometry]:
    """Each value of ``region`` as a convolution of its anchor."""
    found: dict[fx.Node, Geometry | None] = {region.anchor: None}
    for node in region.nodes:
        parts = [found[x] for x in operands(node)]
        first = parts[0]
        if is_addition(node) or is_concatenation(node):
            axes = next((part.axes for part in parts if part), len(shape_of(node)) - 2)
            one = Geometry.identity(channels(region.anchor, axes), axes)
            join = Geometry.plus if is_addition(node) else Geometry.beside
            found[node] = functools.reduce(join, [part or one for part in parts])
        elif is_passthrough(node) or node in region.removed:
            found[node] = first
        elif node in region.before:
            after = axes_after(node, first.axes) if first else None
            found[node] = None if first is None or after is None else first.on(after)
        else:
            op = affine_op(node, first.axes if first else None)
            assert isinstance(op, AffineOp)
            found[node] = first.then(op.geometry) if first else op.geometry
    axes = next((value.axes for value in found.values() if value), 0)
    one = Geometry.identity(channels(region.anchor, axes), axes)
    return {node: value or one for node, value in found.items()}
