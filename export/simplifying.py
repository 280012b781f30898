"""Simplify ONNX graphs: small rewrites that do not change the function, run until none finds anything to do.

A pass takes an onnx-graphsurgeon graph, rewrites it in place and returns the number of its rewrites.
"""

import logging
from collections import Counter
from collections.abc import Callable, Collection

import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.logger import G_LOGGER

from .passes.constants import fold_constants, lower_constants, remove_dead, share_constants
from .passes.layout import join_concats, join_slices, join_transposes
from .passes.merging import fold_linear
from .passes.noops import join_reshapes, remove_noops, squeeze_reductions
from .passes.shapes import fix_reshapes, fold_shapes

PASSES: dict[str, Callable[[gs.Graph], int]] = {
    "lower-constants": lower_constants,
    "fold-constants": fold_constants,
    "remove-noops": remove_noops,
    "squeeze-reductions": squeeze_reductions,
    "fold-shapes": fold_shapes,
    "fix-reshapes": fix_reshapes,
    "join-reshapes": join_reshapes,
    "join-transposes": join_transposes,
    "join-slices": join_slices,
    "join-concats": join_concats,
    "fold-linear": fold_linear,
    "share-constants": share_constants,
    "remove-dead": remove_dead,
}


def simplify(model: onnx.ModelProto, skip: Collection[str] = ()) -> tuple[onnx.ModelProto, Counter, Counter]:
    """Return a simplified copy of ``model``, and its number of nodes per operator before and after.

    Same function to float32 rounding (what is folded into weights is so in float64), same inputs and outputs, opset,
    IR version and metadata. Simplifying twice is simplifying once. ``skip`` names passes of `PASSES` to leave out.
    """
    before = Counter(node.op_type for node in model.graph.node)
    copied = onnx.ModelProto()
    copied.CopyFrom(model)  # graphsurgeon keeps references into what it imports
    graph = gs.import_onnx(copied)
    passes = [rewrite for name, rewrite in PASSES.items() if name not in skip]
    with G_LOGGER.suppress(logging.CRITICAL):  # it prints to stdout
        while sum(rewrite(graph) for rewrite in passes):
            pass
        result = gs.export_onnx(graph)
    for entry in model.metadata_props:
        result.metadata_props.add(key=entry.key, value=entry.value)
    return result, before, Counter(node.op_type for node in result.graph.node)


def table(before: Counter, after: Counter) -> str:
    """Nodes per operator before => after, a line for each operator; the largest numbers first."""
    names = sorted(before | after, key=lambda name: (-before[name], name))
    rows = [(name, before[name], after[name]) for name in names] + [("total", before.total(), after.total())]
    width = max(len(name) for name, _, _ in rows)
    return "\n".join(f"  {name:{width}}  {old:5} => {new}" for name, old, new in rows)
