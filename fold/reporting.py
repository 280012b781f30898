"""What was folded and what it gained, as text and as JSON values."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import takewhile

from .folding import FoldResult, Merge, Scan
from .regions.costs import Cost
from .regions.finding import Skipped

_LISTED = 4  # layers of a merge that a table names


def before_after(costs: Mapping[str, Cost], accuracy: Mapping[str, float]) -> str:
    """A table with a row for each network in ``costs``."""
    rows = [["network", "weighted layers", "parameters", "MACs", "accuracy"]]
    for name, cost in costs.items():
        right = f"{100 * accuracy[name]:.2f} %" if name in accuracy else "-"
        rows.append([name, str(cost.depth), quantity(cost.parameters), quantity(cost.macs), right])
    return table(rows)


def merges(folded: list[Merge]) -> str:
    """A table with a row for each merged layer: what it replaces, and its cost before and after."""
    rows = [["in", "merged layers", "kernel", "stride", "parameters", "MACs", "without"]]
    for merge in folded:
        before, after = merge.macs
        scope = common_scope([*merge.layers, *merge.activations])
        rows.append(
            [
                scope.rstrip("."),
                listed(merge.layers, scope, " + "),
                "x".join(map(str, merge.kernel)) or "linear",
                "x".join(map(str, merge.stride)) or "-",
                " => ".join(map(quantity, merge.parameters)),
                f"{quantity(before)} => {quantity(after)} ({after / before:.2f}x)",
                listed(merge.activations, scope, ", "),
            ]
        )
    return table(rows)


def reasons(skipped: list[Skipped]) -> str:
    """A table with a row for each layer that stays, and why."""
    return table([["layer", "stays, because"], *([entry.layer, entry.reason] for entry in skipped)])


def as_json(result: FoldResult | Scan) -> dict[str, object]:
    """The fields of a result but its model, as JSON values."""
    fields = {name: value for name, value in vars(result).items() if name != "model"}
    return {
        name: [asdict(entry) for entry in value] if isinstance(value, list) else value for name, value in fields.items()
    }


def common_scope(names: list[str]) -> str:
    """The modules that all ``names`` are in, with the dot: `blocks.0.` of `blocks.0.conv` and `blocks.0.act`."""
    paths = [name.split(".")[:-1] for name in names]
    shared = takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))
    return "".join(f"{parts[0]}." for parts in shared)


def listed(names: Sequence[str], scope: str, separator: str) -> str:
    """``names`` within ``scope``; of more than four the first, the last, and how many there are: tables stay narrow."""
    short = [name.removeprefix(scope) for name in names]
    if len(short) > _LISTED:
        short = [short[0], "...", f"{short[-1]} ({len(short)})"]
    return separator.join(short)


def quantity(value: int) -> str:
    """``value`` to three digits with an SI suffix, such as 41.2 M."""
    for factor, suffix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= 0.9995 * factor:
            return f"{value / factor:.3g}{suffix}"
    return str(value)


def table(rows: list[list[str]]) -> str:
    """Columns aligned, the first row underlined."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])
