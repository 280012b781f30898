"""Fold the linear regions of a network, exactly.

    from fold import depth, fold, hoist_padding, scan

    print(depth(model, example))
    model, hoisted = hoist_padding(model, example)  # changes borders: fine-tune after this
    result = fold(model.eval(), example)            # result.model, .folded, .skipped, .max_error

Command line: ``python -m fold --help``.
"""

from fold.cost import cost, depth
from fold.errors import CheckError, InputError
from fold.folding import FoldResult, Merge, Scan, fold, scan
from fold.padding import hoist_padding

__all__ = [
    "CheckError", "FoldResult", "InputError", "Merge", "Scan", "cost", "depth", "fold", "hoist_padding", "scan",
]  # fmt: skip
