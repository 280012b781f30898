"""Which networks fold: some activations removed, padding hoisted, folded, and compared with the network before folding.
And which of them NVIDIA's parser and builder take, where TensorRT-RTX is installed.

    python -m benchmarks.support resnet18 mixnet_s     # the table of these two, on stdout
    python -m benchmarks.support -o docs/support.md    # the page of all networks: `make support`

Weights are random and nothing is downloaded. Exit codes: 0 every network passed, 1 one failed, and the table says how,
2 bad input.
"""

from __future__ import annotations

import gc
import operator
import re
import sys
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import Tensor, fx, nn

from benchmarks import engines, networks
from layer_folding.command_line import run
from layer_folding.errors import InputError
from layer_folding.fold import cost, fold, gates, harden, hoist_padding, linearize
from layer_folding.fold.algebra.layers import BATCH_NORMS, is_weighted
from layer_folding.fold.model_names import build
from layer_folding.fold.regions.finding import Skipped, hoisted_regions
from layer_folding.fold.reporting import quantity

SEED = 0
BATCH = 2
HALVES = 2  # random halves of the activations that each network has to do without
TOLERANCE64, TOLERANCE32 = 1e-9, 1e-4  # largest difference over largest output
LARGEST = 10_000_000  # weights of one merged layer; composing more takes minutes and gigabytes, and would never pay
REASONS = 3  # shown per network, the most frequent first


@dataclass(frozen=True)
class Trial:
    """One folding: regions merged, errors over the largest output, (before, after) folding, and what stays and why."""

    folded: int
    error64: float
    error32: float
    layers: tuple[int, int]  # weighted, all of them
    depth: tuple[int, int]  # weighted, on the longest path
    macs: tuple[int, int]  # per image
    skipped: tuple[Skipped, ...]

    @property
    def failure(self) -> str | None:
        """What is wrong with the folded network; None if nothing is."""
        if not self.error64 <= TOLERANCE64:  # also where it is not a number
            return f"off by {self.error64:.0e} in float64"
        if not self.error32 <= TOLERANCE32:
            return f"off by {self.error32:.0e} in float32"
        for before, after in (self.layers, self.depth):
            if after > before:
                return f"{before} weighted layers became {after}"
        return None


@dataclass(frozen=True)
class Row:
    """A network in the table; its last trial is the one without all activations whose removal lets layers merge.

    ``failure`` says why it does not pass; if it has no trials, where it stopped.
    """

    name: str
    activations: int = 0
    foldable: int = 0
    trials: tuple[Trial, ...] = ()
    failure: str | None = None
    engines: tuple[engines.Engines, ...] = ()  # of the original and of the last trial; empty without TensorRT-RTX


def main(arguments: list[str] | None = None) -> None:
    networks.main("benchmarks.support", __doc__, measure, table, page, arguments)


def measure(name: str) -> Row:
    """All trials of one network. Whatever goes wrong becomes the failure of its row: the other networks still run."""
    network = networks.NETWORKS[name]
    torch.manual_seed(SEED)
    try:
        model = build(f"{network.source}:{name}", network.arguments).eval()
        redraw_constants(model)
        example = torch.randn(BATCH, 3, network.pixels, network.pixels)
        gated = linearize(model, example, gate="all")
        activations, foldable = list(gates(gated)), _foldable(model, example)
        halves = [[activation for activation in activations if torch.rand(()) < 0.5] for _ in range(HALVES)]
        scales = scaling(gated)
        choices = [affordable(gated, [name for name in names if name not in scales]) for names in (*halves, foldable)]
        trials = []
        for removed in choices:
            trial, folded = attempt(gated, example, removed)
            trials.append(trial)
        del gated
        randomise_statistics(model, example)
        compared = (model, folded) if engines.available() else ()
        built = tuple(engines.of_every_kind(each, example) for each in compared)
    except Exception as error:
        return Row(name, failure=f"{type(error).__name__}: {' '.join(str(error).split())}")
    failure = next((trial.failure for trial in trials if trial.failure), None)
    return Row(name, len(activations), len(foldable), tuple(trials), failure, built)


def _foldable(model: nn.Module, example: Tensor) -> list[str]:
    try:
        return list(gates(linearize(model, example)))
    except InputError:  # no activation is
        return []


def scaling(gated: fx.GraphModule) -> set[str]:
    """The activations whose values multiply others, as in squeeze-and-excitation: without a bound on those factors the
    network is a polynomial of such a high degree that it overflows.
    """
    multiply = (operator.mul, torch.mul, "mul")
    products = [node for node in gated.graph.nodes if node.target in multiply]
    return {x.target for node in products for x in node.all_input_nodes if len(node.all_input_nodes) == 2}


def affordable(gated: fx.GraphModule, names: list[str]) -> set[str]:
    """``names`` without some of those whose removal would merge layers into one of more than LARGEST weights."""
    nodes = {node.target: node for node in gated.graph.nodes if node.op == "call_module"}
    removed = set(names)
    while True:
        regions = hoisted_regions(gated, [nodes[name] for name in removed]).found
        large = [region for region in regions if region.removed and region.geometry.parameters > LARGEST]
        if not large:
            return removed
        removed -= {node.target for region in large for node in region.removed[::2]}


def attempt(gated: fx.GraphModule, example: Tensor, removed: set[str]) -> tuple[Trial, nn.Module]:
    """The network without the activations ``removed``, hoisted and folded, compared with what it was before folding;
    and the folded network, of float32.
    """
    for name, gate in gates(gated).items():
        gate.alpha.data.fill_(name in removed)
    hard = harden(gated).eval()
    randomise_statistics(hard, example)
    hoisted = hoist_padding(hard, example)[0]
    x = torch.randn_like(example)
    with torch.no_grad():
        expected32 = hoisted(x)
        expected64 = hoisted.double()(x.double())
    result = fold(hoisted, example.double())
    before, after = (cost(network, example.double()) for network in (hoisted, result.model))
    layers = _weighted(hoisted), _weighted(result.model)
    with torch.no_grad():
        error64 = max(_relative(result.model(x.double()), expected64), result.max_error)
        error32 = _relative(result.model.float()(x), expected32)
    trial = Trial(
        len(result.folded), error64, error32, layers, (before.depth, after.depth), (before.macs, after.macs),
        tuple(result.skipped),
    )  # fmt: skip
    folded = result.model
    del hard, hoisted, result
    gc.collect()  # graphs refer to themselves: without this, those of several trials would be in memory at once
    return trial, folded


def _relative(actual: Tensor, expected: Tensor) -> float:
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def _weighted(traced: fx.GraphModule) -> int:
    return sum(is_weighted(node) for node in traced.graph.nodes)


def redraw_constants(model: nn.Module) -> None:
    """Draw anew, in place, the parameters that start as constants and would hide mistakes: scales, biases, zeros."""
    for name, p in model.named_parameters():
        if p.min() != p.max():
            continue
        if p[:1].numel() > 1:  # a matrix, such as a classifier that starts at zero
            nn.init.normal_(p, std=p[0].numel() ** -0.5)
        else:
            nn.init.uniform_(p, *((-0.5, 0.5) if name.endswith("bias") else (0.5, 1.5)))


def randomise_statistics(model: nn.Module, x: Tensor) -> None:
    """Give each BatchNorm, in place, random statistics near those of ``x``: means off by up to a deviation, variances
    by up to a factor of two. So no value explodes on its way through, which would drown the errors.
    """

    def draw(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        variance, mean = torch.var_mean(inputs[0].transpose(0, 1).flatten(1), dim=1)
        variance = variance.mean()  # that of one channel, over a few pixels, may be next to nothing
        norm.running_mean.copy_(mean + variance.sqrt() * torch.empty_like(mean).uniform_(-1, 1))
        norm.running_var.copy_(variance * torch.empty_like(mean).uniform_(0.5, 2))

    hooks = [m.register_forward_pre_hook(draw) for m in model.modules() if isinstance(m, BATCH_NORMS)]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()


def table(rows: list[Row]) -> str:
    """Markdown, a line for each network."""
    header = (
        "network", "from", "pixels", "foldable / activations", "regions folded", "depth", "MACs", "float64 error",
        "float32 error", "engines of the original", "engines of the folded", "what stays, and why",
    )  # fmt: skip
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *map(_cells, rows)))


def _cells(row: Row) -> list[str]:
    network = networks.NETWORKS[row.name]
    cells = [row.name, network.source.partition(".")[0], str(network.pixels)]
    if row.trials:
        last = row.trials[-1]
        cells += [
            f"{row.foldable} / {row.activations}",
            ", ".join(str(trial.folded) for trial in row.trials),
            f"{last.depth[0]} => {last.depth[1]}",
            " => ".join(map(quantity, last.macs)),
            f"{max(trial.error64 for trial in row.trials):.0e}",
            f"{max(trial.error32 for trial in row.trials):.0e}",
            *(map(str, row.engines) if row.engines else "--"),
            reasons(last.skipped),
        ]
    else:
        cells += ["-"] * 9
    if row.failure:
        cells[-1] = f"**FAILED: {row.failure}**"
    return [cell.replace("|", "\\|") for cell in cells]


def reasons(skipped: tuple[Skipped, ...]) -> str:
    """The most frequent reasons, each with the number of layers that it holds for."""
    counts = Counter(category(entry.reason) for entry in skipped).most_common()
    named = [f"{count}: {reason}" for reason, count in counts[:REASONS]]
    rest = sum(count for _, count in counts[REASONS:])
    return "<br>".join([*named, *([f"{rest}: other reasons"] if rest else [])]) or "nothing"


def category(reason: str) -> str:
    """A reason without the names in it: "the activation 0.relu (ReLU) comes" gives "the activation ReLU comes"."""
    reason = re.sub(r"\S+ \((\w+)\)", r"\1", reason)  # modules: path (type)
    reason = re.sub(r"\b([a-z]\w*?)_\d+\b", r"\1", reason)  # functions: name_number
    return re.sub(r"\b\d+(\.\d+)?(x?)\b", r"N\2", reason)


def page(rows: list[Row]) -> str:
    """The table with what it means and how it came about."""
    versions = ", ".join(f"{package} {_version(package)}" for package in ("torch", "torchvision", "timm"))
    passed = sum(row.failure is None for row in rows)
    named = [row.name for row in rows] if len(rows) < len(networks.NETWORKS) else []
    command = " ".join(["python -m benchmarks.support", *named])
    return f"""\
# Networks that fold

{passed} of {len(rows)} networks pass. Written by `{command}` with {versions}, seed {SEED}.

Weights and BatchNorm statistics are random. Each network has {HALVES + 1} trials. In the first {HALVES} trials
a random half of its activations is removed. In the last trial every activation is removed whose removal lets weighted
layers merge. Two kinds of activations stay: those whose values multiply other values, as in squeeze-and-excitation, and
some where a merged layer would have more than {quantity(LARGEST)} weights.

In each trial the padding is hoisted, the network is folded, and the folded network is compared with the hoisted network
on random images. The network passes if the largest difference is at most {TOLERANCE64:.0e} of the largest output
in float64 and {TOLERANCE32:.0e} in float32, and if neither the number nor the depth of its weighted layers grows.

The errors are the largest of all trials. The column of folded regions has a number for each trial. The last trial gives
the depth (weighted layers on the longest path), the MACs (multiply-accumulates per image, at this size), and the layers
that stay, with the reason.

{_engines(rows)}

{table(rows)}
"""


def _engines(rows: list[Row]) -> str:
    """The paragraph on what NVIDIA's builder made of the networks."""
    if not any(row.engines for row in rows):
        return "Engines: TensorRT-RTX was not installed."
    each = [built for row in rows for built in row.engines]
    count, all_of_them = sum(built.built for built in each), sum(built.built + len(built.refused) for built in each)
    version_of = _version("tensorrt-rtx-cu12-bindings")
    return f"""\
The original and the network of the last trial also go to ONNX, in {", ".join(engines.PRECISIONS)}, each at opsets
{" and ".join(map(str, engines.OPSETS))}, and through the parser and the builder of TensorRT-RTX {version_of},
for a GPU of compute capability {engines.CAPABILITY}: {count} of {all_of_them} engines were built. What was refused is
named beside the count. None of the engines was run."""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # timm is optional; its networks fail, and say so
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(run(main))
