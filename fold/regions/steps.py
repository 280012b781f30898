"""What a walk over a graph goes through: the nodes as steps, and the values that the steps give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from torch import fx

from ..algebra.commuting import axes_after
from ..algebra.geometry import Geometry
from ..algebra.layers import affine_op, is_addition, is_concatenation, is_passthrough, is_weighted, operands
from ..algebra.operations import AffineOp
from ..algebra.refusals import Refusal
from ..graph.nodes import is_marked, module_of


@dataclass(frozen=True, kw_only=True)
class Step:
    """A node and what it is in the algebra: read off the graph once, since many walks go over the same graph."""

    node: fx.Node
    join: Callable[[Geometry, Geometry], Geometry] | None  # of a sum or a concatenation
    passes: bool  # returns its input unchanged
    marked: bool  # stands where an activation was removed
    fitted: bool  # a layer that was fitted
    weighted: bool
    inputs: tuple[fx.Node, ...]  # the values that it works on
    op: AffineOp | Refusal
    _axes: dict[int, int | None] = field(default_factory=dict, repr=False, compare=False)

    def axes_after(self, axes: int) -> int | None:
        """As `commuting.axes_after` of the node, which is asked once."""
        if axes not in self._axes:
            self._axes[axes] = axes_after(self.node, axes)
        return self._axes[axes]


def read_steps(traced: fx.GraphModule) -> list[Step]:
    """What each node of a graph from `fold.graph.tracing.trace` is, in order."""
    return [
        Step(
            node=node,
            join=Geometry.plus if is_addition(node) else Geometry.beside if is_concatenation(node) else None,
            passes=is_passthrough(node),
            marked=is_marked(module_of(node), "removed"),
            fitted=is_marked(module_of(node), "fitted"),
            weighted=is_weighted(node),
            inputs=operands(node),
            op=affine_op(node),
        )
        for node in traced.graph.nodes
    ]


@dataclass(frozen=True)
class Value:
    """A value as a convolution of its anchor."""

    anchor: fx.Node
    geometry: Geometry | None  # None: the anchor itself, as many axes as its reader wants
    nodes: frozenset[fx.Node] = frozenset()
    biased: bool = False
    # a removed activation since the last weighted layer: merging the next one is what its removal was for
    opened: bool = False
    weighted: bool = False
    before: tuple[fx.Node, ...] = ()  # what the convolution reads is these applied to the anchor
    mapped: bool = False
    trailing: fx.Node | None = None  # the first of ``before`` behind which no weighted layer has come yet

    @property
    def base(self) -> fx.Node:
        """The node that has the spatial size of what the convolution reads."""
        return self.before[-1] if self.before else self.anchor

    @property
    def convolution(self) -> Geometry:
        """The geometry of a value that is more than its anchor, or that has been read on some axes (`read_by`)."""
        assert self.geometry is not None
        return self.geometry

    def read_by(self, op: AffineOp) -> Value:
        """The value as ``op`` reads it: an anchor is the identity on the axes that ``op`` works on."""
        if self.geometry is not None:
            return self
        return replace(self, geometry=Geometry.identity(op.geometry.in_channels, op.geometry.axes))
