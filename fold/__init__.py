"""Fold the linear regions of a network, exactly.

    from layer_folding.fold import depth, fold, hoist_padding, scan

    print(depth(model, example))
    model, hoisted = hoist_padding(model, example)  # changes borders: fine-tune after this
    result = fold(model.eval(), example)            # result.model, .folded, .skipped, .max_error

Command line: ``layer-folding fold --help``.
"""

from layer_folding.callable_package import make_callable
from layer_folding.errors import CheckError, InputError

from .fitting.network_fit import FitResult, FittedLayer, fit
from .folding import FoldResult, Merge, Scan, fold, scan
from .gating import Linearizable, depth_penalty, gates, harden, linearize
from .regions.costs import cost, depth
from .regions.padding import hoist_padding

__all__ = [
    "CheckError", "FitResult", "FittedLayer", "FoldResult", "InputError", "Linearizable", "Merge", "Scan", "cost",
    "depth", "depth_penalty", "fit", "fold", "gates", "harden", "hoist_padding", "linearize", "scan",
]  # fmt: skip

make_callable(__name__, fold)
