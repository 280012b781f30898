"""Which networks go to ONNX: each exported at opsets 17 and 20, simplified, and compared with PyTorch in ONNX Runtime.

    python -m benchmarks.export_support resnet18 mixnet_s            # the table of these two, on stdout
    python -m benchmarks.export_support -o docs/export-support.md    # the page; of networks given, their rows

The networks are those of benchmarks.networks, with random weights; nothing is downloaded. Beside the number of nodes
stand those that onnxsim and onnxslim leave of the same file. Exit codes: 0 every network passed, 1 one failed, and the
table says how, 2 bad input.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass

import onnx
import onnxsim
import onnxslim
import torch

from benchmarks import networks
from benchmarks.support import SEED, randomise_statistics, redraw_constants
from layer_folding.command_line import run
from layer_folding.export import lower, max_error, simplify
from layer_folding.export.verifying import TOLERANCE

OPSETS = (17, 20)
NEEDLESS = ("Identity", "Dropout", "Constant", "BatchNormalization", "Pad")
COLUMNS = (
    "network", "from",
    *(f"opset {opset}: {what}" for opset in OPSETS for what in ("nodes", "onnxsim, onnxslim", "error")),
    "needless nodes that stay",
)  # fmt: skip


@dataclass(frozen=True)
class Export:
    """One export: nodes as exported, as simplified here and by others, and the error over the largest output."""

    exported: int
    nodes: int
    onnxsim: int
    onnxslim: int
    left: dict[str, int]  # of NEEDLESS, those that stay
    error: float

    @property
    def failure(self) -> str | None:
        """What is wrong with it; None if nothing is."""
        if not self.error <= TOLERANCE:
            return f"off by {self.error:.0e}"
        if self.nodes > min(self.onnxsim, self.onnxslim):
            return f"{self.nodes} nodes, {self.onnxsim} by onnxsim, {self.onnxslim} by onnxslim"
        return None


@dataclass(frozen=True)
class Row:
    """A network in the table: its exports by opset, or where it stopped."""

    name: str
    exports: dict[int, Export]
    failure: str | None = None


def main(arguments: list[str] | None = None) -> None:
    options = networks.parser("benchmarks.export_support", __doc__).parse_args(arguments)
    networks.run(options, COLUMNS, measure, cells, page)


def measure(name: str) -> Row:
    """Both exports of one network. Whatever goes wrong becomes the failure of its row: the other networks still run."""
    network = networks.NETWORKS[name]
    torch.manual_seed(SEED)
    exports = {}
    try:
        model = network.make().eval()
        redraw_constants(model)
        example = torch.randn(2, 3, network.pixels, network.pixels)
        randomise_statistics(model, example)
        for opset in OPSETS:
            lowered = lower(model, example, opset)
            simple, before, after = simplify(lowered)
            exports[opset] = Export(
                before.total(),
                after.total(),
                *others(lowered),
                {operator: after[operator] for operator in NEEDLESS if after[operator]},
                max_error(model, simple),
            )
    except Exception as error:
        return Row(name, exports, f"{type(error).__name__}: {' '.join(str(error).split())}")
    failures = [f"opset {opset}: {export.failure}" for opset, export in exports.items() if export.failure]
    return Row(name, exports, "; ".join(failures) or None)


def others(model: onnx.ModelProto) -> tuple[int, int]:
    """The number of nodes that onnxsim and onnxslim leave of ``model``."""
    return len(onnxsim.simplify(model)[0].graph.node), len(onnxslim.slim(model).graph.node)


def cells(row: Row) -> list[str]:
    """The row of the table."""
    texts = [row.name, networks.NETWORKS[row.name].package]
    for opset in OPSETS:
        export = row.exports.get(opset)
        texts += (
            [f"{export.exported} => {export.nodes}", f"{export.onnxsim}, {export.onnxslim}", f"{export.error:.0e}"]
            if export
            else ["-"] * 3
        )
    left = sum((Counter(export.left) for export in row.exports.values()), Counter())
    stays = ", ".join(f"{operator} {count}" for operator, count in left.items()) or "none"
    texts.append(f"{networks.FAILED}{row.failure}**" if row.failure else stays)
    return list(map(networks.cell, texts))


def page(rows: list[list[str]]) -> str:
    """The table with what it means and how it came about."""
    packages = (*networks.PACKAGES, "onnx", "onnxruntime", "onnxsim", "onnxslim")
    return f"""\
# Networks that go to ONNX

{networks.passed(rows)}. Written by `python -m benchmarks.export_support -o FILE`, seed {SEED}, with
{networks.versions(packages)}.

Weights and BatchNorm statistics are random. Each network is exported at opsets {OPSETS[0]} and {OPSETS[1]} with a
dynamic batch, and simplified. ONNX Runtime then runs it on random images, one and five at a time. The network passes if
the largest difference from PyTorch is at most {TOLERANCE:.0e} of the largest output, and if no more nodes stay than
onnxsim and onnxslim leave of the same file.

The last column counts the nodes of these operators that stay, over both opsets: {", ".join(NEEDLESS)}.
A BatchNormalization with an activation behind it and no layer cannot go: TensorRT needs it too.

{networks.table(COLUMNS, rows)}
"""


if __name__ == "__main__":
    sys.exit(run(main))
