"""Which networks fold: some activations removed, padding hoisted, folded, and compared with the network before folding.

    python -m benchmarks.support resnet18 mixnet_s                      # the table of these two, on stdout
    python -m benchmarks.support -o docs/support.md                     # the page of all networks
    python -m benchmarks.support -o docs/support.md resnet18            # its row on that page anew
    python -m benchmarks.support -o docs/support.md --engines           # with engines: `make support`

The folded network is also exported in three precisions, and compared in ONNX Runtime. With --engines, NVIDIA's parser
and builder get the files. Weights are random and nothing is downloaded. Exit codes: 0 every network passed, 1 one
failed, and the table says how, 2 bad input.
"""

from __future__ import annotations

import gc
import operator
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from benchmarks import engines, networks
from benchmarks.resources import Spent, spent
from layer_folding.command_line import run
from layer_folding.errors import InputError
from layer_folding.export import max_error
from layer_folding.export.verifying import TOLERANCE
from layer_folding.fold import cost, fold, gates, harden, hoist_padding, linearize, scan
from layer_folding.fold.algebra.layers import BATCH_NORMS, is_weighted
from layer_folding.fold.graph.comparing import relative
from layer_folding.fold.graph.nodes import target_of
from layer_folding.fold.graph.tracing import trace
from layer_folding.fold.plan.candidates import candidates
from layer_folding.fold.regions.finding import Skipped, foldable_activations, hoisted_regions
from layer_folding.fold.reporting import quantity

SEED = 0
BATCH = 2
HALVES = 2  # random halves of the activations that each network has to do without
TOLERANCE64, TOLERANCE32 = 1e-9, 1e-4  # largest difference over largest output
LARGEST = 10_000_000  # weights of one merged layer; composing more takes minutes and gigabytes, and would never pay
SECONDS, GIGABYTES = 60, 4  # that one network may take of scan, candidates or fold
REASONS = 3  # shown per network, the most frequent first
COLUMNS = (
    "network", "from", "pixels", "foldable / activations", "regions folded", "depth", "MACs", "float64 error",
    "float32 error", "ONNX error", "seconds", "GB", "engines of the original", "engines of the folded",
    "what stays, and why",
)  # fmt: skip


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
    spent: Spent  # by fold

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

    ``exported`` has the error of the folded network's file by precision, ``spent`` what a call took by its name.
    """

    name: str
    activations: int = 0
    foldable: int = 0
    trials: tuple[Trial, ...] = ()
    exported: Mapping[str, float] = field(default_factory=dict)
    spent: Mapping[str, Spent] = field(default_factory=dict)
    engines: tuple[engines.Engines, ...] = ()  # of the original and of the last trial; empty without --engines
    stopped: str | None = None  # by this error

    @property
    def failure(self) -> str | None:
        """Why it does not pass; None if it does."""
        wrong = [trial.failure for trial in self.trials if trial.failure]
        if not self.exported.get("fp32", 0) <= TOLERANCE:
            wrong.append(f"its file is off by {self.exported['fp32']:.0e} in fp32")
        for call, took in self.spent.items():
            if took.seconds > SECONDS:
                wrong.append(f"{call} takes {took.seconds:.0f} s")
            if took.peak > GIGABYTES * 1e9:
                wrong.append(f"{call} takes {took.peak / 1e9:.1f} GB")
        return self.stopped or "; ".join(wrong) or None


def main(arguments: list[str] | None = None) -> None:
    parser = networks.parser("benchmarks.support", __doc__)
    parser.add_argument("--engines", action="store_true", help="build engines by TensorRT-RTX too; an hour more")
    options = parser.parse_args(arguments)
    if options.engines and not engines.available():
        raise InputError("--engines: TensorRT-RTX is not installed; pip install 'layer-folding[rtx]'")
    networks.run(options, COLUMNS, partial(measure, with_engines=options.engines), cells, page)


def measure(name: str, *, with_engines: bool = False) -> Row:
    """All trials of one network. Whatever goes wrong becomes the failure of its row: the other networks still run."""
    network = networks.NETWORKS[name]
    torch.manual_seed(SEED)
    try:
        model = network.make().eval()
        redraw_constants(model)
        example = torch.randn(BATCH, 3, network.pixels, network.pixels)
        _, scanned = spent(lambda: scan(model, example))
        _, listed = spent(lambda: candidates(model, example))
        gated = linearize(model, example, gate="all")
        activations = list(gates(gated))
        foldable = [target_of(node) for node in foldable_activations(trace(model, example, share_weights=True))]
        halves = [[activation for activation in activations if torch.rand(()) < 0.5] for _ in range(HALVES)]
        scales = scaling(gated)
        choices = [affordable(gated, [name for name in names if name not in scales]) for names in (*halves, foldable)]
        trials = []
        for removed in choices:
            trial, folded = attempt(gated, example, removed)
            trials.append(trial)
        del gated
        most = Spent(*(max(getattr(trial.spent, what) for trial in trials) for what in ("seconds", "peak")))
        took = {"scan": scanned, "candidates": listed, "fold": most}
        files = exported(folded, example)
        randomise_statistics(model, example)
        compared = (model, folded) if with_engines else ()
        built = tuple(engines.of_every_kind(each, example) for each in compared)
    except Exception as error:
        return Row(name, stopped=f"{type(error).__name__}: {' '.join(str(error).split())}")
    return Row(name, len(activations), len(foldable), tuple(trials), files, took, built)


def exported(model: nn.Module, example: Tensor) -> dict[str, float]:
    """By precision, how far the ONNX file of ``model`` is off in ONNX Runtime, over the largest output."""
    with tempfile.TemporaryDirectory() as folder:
        files = engines.export(model, example, Path(folder))
        return {precision: max_error(model, path) for precision, path in files.items()}


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
    result, took = spent(partial(fold, hoisted, example.double()))
    before, after = (cost(network, example.double()) for network in (hoisted, result.model))
    layers = _weighted(hoisted), _weighted(result.model)
    with torch.no_grad():
        error64 = max(relative(result.model(x.double()), expected64), result.max_error)
        error32 = relative(result.model.float()(x), expected32)
    trial = Trial(
        len(result.folded), error64, error32, layers, (before.depth, after.depth), (before.macs, after.macs),
        tuple(result.skipped), took,
    )  # fmt: skip
    folded = result.model
    del hard, hoisted, result
    gc.collect()  # graphs refer to themselves: without this, those of several trials would be in memory at once
    return trial, folded


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


def cells(row: Row) -> list[str]:
    """The row of the table."""
    network = networks.NETWORKS[row.name]
    texts = [row.name, network.package, str(network.pixels)]
    if row.trials:
        last = row.trials[-1]
        texts += [
            f"{row.foldable} / {row.activations}",
            ", ".join(str(trial.folded) for trial in row.trials),
            f"{last.depth[0]} => {last.depth[1]}",
            " => ".join(map(quantity, last.macs)),
            f"{max(trial.error64 for trial in row.trials):.0e}",
            f"{max(trial.error32 for trial in row.trials):.0e}",
            ", ".join(f"{error:.0e}" for error in row.exported.values()),
            ", ".join(f"{took.seconds:.0f}" for took in row.spent.values()),
            f"{max(took.peak for took in row.spent.values()) / 1e9:.1f}",
            *(map(str, row.engines) if row.engines else "--"),
            reasons(last.skipped),
        ]
    else:
        texts += ["-"] * (len(COLUMNS) - len(texts))
    if row.failure:
        texts[-1] = f"{networks.FAILED}{row.failure}**"
    return list(map(networks.cell, texts))


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


def page(rows: list[list[str]]) -> str:
    """The table with what it means and how it came about."""
    return f"""\
# Networks that fold

{networks.passed(rows)}. Written by `python -m benchmarks.support -o FILE`, seed {SEED}, with
{networks.versions(networks.PACKAGES)}.

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

The network of the last trial is exported in {", ".join(engines.PRECISIONS)}, and each file is compared with it in ONNX
Runtime. It passes if fp32 is off by at most {TOLERANCE:.0e}; random weights need not be accurate in the others.
The seconds of processor time are those of scan, candidates and fold. GB is the most memory of the process in them, with
PyTorch and what networks before it have left. More than {SECONDS} s or {GIGABYTES} GB fails. A - was not measured.

{_engines(rows)}
{_missing(rows)}
{networks.table(COLUMNS, rows)}
"""


def _missing(rows: list[list[str]]) -> str:
    """The paragraph on the networks of the list that have no row."""
    missing = [name for name in networks.NETWORKS if name not in {row[0] for row in rows}]
    return f"\nListed, and not measured yet: {', '.join(missing)}.\n" if missing else ""


def _engines(rows: list[list[str]]) -> str:
    """The paragraph on what NVIDIA's builder made of the networks."""
    columns = [COLUMNS.index(column) for column in COLUMNS if column.startswith("engines")]
    counts = [map(int, found.groups()) for row in rows for i in columns if (found := _BUILT.match(row[i]))]
    if not counts:
        return "No engines were built; `--engines` does."
    built, tried = (sum(numbers) for numbers in zip(*counts, strict=True))
    version_of = networks.version_of("tensorrt-rtx-cu12-bindings")
    return f"""\
With `--engines`, the original and the network of the last trial also go to ONNX at opsets
{" and ".join(map(str, engines.OPSETS))}, and through the parser and the builder of TensorRT-RTX {version_of},
for a GPU of compute capability {engines.CAPABILITY}: {built} of {tried} engines were built. What was refused is
named beside the count. None of the engines was run."""


_BUILT = re.compile(r"(\d+) of (\d+)")


if __name__ == "__main__":
    sys.exit(run(main))
