"""docs/results.md and its picture, from what is noted in docs/results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks import frontier, goals, published_rows
from benchmarks.document import Document
from benchmarks.notes import Note
from benchmarks.published_rows import Published
from layer_folding.fold.reporting import quantity
from layer_folding.stages import STEPS
from layer_folding.stats import Comparison


@dataclass(frozen=True)
class Section:
    """What the page says about one benchmark, above its tables."""

    title: str
    text: str
    missing: str = "Not measured yet."


SECTIONS = {
    "benchmarks.planned": Section(
        "Planned, folded everywhere, not folded",
        """\
Networks with random weights, planned by a table that is measured first, with everything allowed and no budget: this is
about latency only. *Planned* may fit smaller layers; *merged* is planned with exact merges alone. *Everything* is
without any activation whose removal lets layers merge; *published* is the choice of blocks of DepthShrinker. All
speed-ups are over the original, interleaved, batch 1. *Miss* is by how much the predicted speed-up is above the
measured one; the last column has the networks that are faster than the planned one.""",
    ),
    "benchmarks.fitting": Section(
        "What fits lose without training",
        """\
ResNet-20, and one 3x3 convolution in the place of both convolutions of a block and the activation between them: of each
block alone, of four blocks, and of all nine. The fit sees training images without their labels; accuracy is that of all
test images. *Tuned* is what `lf.fit` gives, *least squares* what it gives without its last step. Peak memory is that of
the whole process.""",
    ),
    "benchmarks.efficientnet_lite": Section(
        "A network trained on ImageNet, without labels",
        """\
EfficientNet-Lite0 with its published weights, from PyTorch and from an ONNX file alone, planned and fitted for some
speed-ups on this CPU. Half of the images are fitted to, without their labels, and all shares are of the other half.
These are probably images that the network was trained on: *top-1* is for comparing the columns, and says little by
itself. *Agreement* is the share of images with the class that the original network gives. *Fitted* is without further
training; *distilled* learned from the original network for some epochs, on the images that were fitted to. Both have
the same layers, so the speed-up is that of both: interleaved, batch 1, one thread.""",
    ),
    "benchmarks.fit_cost": Section(
        "What a fit costs",
        """\
Every block becomes one 3x3, with random weights and images. *Seconds* is the time without the last step of `lf.fit`,
*tuned* the time with it. *Each alone* is the time in which `lf.importance` tries all of them, one at a time. Peak
memory is that of the whole process.""",
    ),
    "benchmarks.paper": Section(
        "The paper's code beside ours",
        """\
ResNet-20 by the loss, the loop and the settings of the code that the authors of Layer Folding published, written anew,
and by our commands, from the same weights, for as many epochs on the same images. The published settings are meant for
100 epochs: gates begin at 0, where the penalty has no slope, and few epochs open none. Our commands are told to open
five gates (`--remove-count 5`). Fits are five 3x3 layers, fine-tuned for the epochs of both stages. *Kernels* is the
time to merge nine pairs of 3x3 convolutions: by autograd, or by composition.""",
    ),
    "benchmarks": Section(
        "What folding itself costs",
        """\
Contenders are timed interleaved (A B B A) in one process; the speed-up is the median of paired ratios, over the first
contender of each case. Machines in the cloud are fast and slow by turns: the ratios count, not the times.

- **epoch**: four batches of an epoch of `prefold`, images from memory and cropped as a batch, against a loop that
  transforms each image with PIL in the main process, as the original code does.
- **export**: what `torch.onnx` and the step to the opset take, and simplifying the file that comes out, beside onnxsim
  and onnxslim on the same file; each name says how many nodes it leaves. All networks:
  [export-support.md](export-support.md).
- **fold**: `fold.fold` from end to end, its check in float64 included, on CIFAR ResNets with the activation within
  every block gone and the padding hoisted.
- **gates**: forward and backward pass with the depth penalty against the same network without gates. Below 1x is the
  price of the gates: of the 9 that `prefold` has by default, and of all 19 of `--gate all`.
- **kernels**: merged kernels of two 3x3 convolutions, by autograd as the published code of Layer Folding extracts them,
  and by `fold.algebra.affine_conv`. `fold.fold` composes in float64.""",
    ),
    "benchmarks.timing": Section(
        "Whether latencies can be trusted",
        """\
A chain of 20 equal layers against itself, against one of 21, and against a plain loop around the runtime, each many
times over by `python -m trt_bench bench`. At least 19 of 20 have to hold.""",
    ),
    "benchmarks.gpu": Section(
        "On a GPU",
        """\
Networks with random weights, as CUDA graphs in PyTorch, fp32 (without TF32) and fp16, interleaved: this is about
latency only. *Merged* has the exact merge of all layers that can merge. *Fitted* has one layer in their place, with a
kernel as large as the largest of theirs. All three have their BatchNorms merged.""",
        "Not measured: there was no GPU to be had.",
    ),
}


def page(runs: Mapping[str, Note], benchmarks: Sequence[Document], published: Published | None) -> str:
    """docs/results.md: goals, trained networks, the frontier, works of others, benchmarks; at the end the commands."""
    found = frontier.rows(runs)
    blocks = [
        "# Results",
        "Written by `python -m benchmarks.results` from the files in `docs/results`: one for each run folder, one for\n"
        "each benchmark. Intervals are of 95 %. A section without a file says that nothing was measured.",
        "## Trained networks",
        "Accuracy is top-1 on the test images, in per cent; speed-up is folded against original, interleaved, at\n"
        "batch 1. Commands, versions and machines are [below](#commands).",
        _trained(runs),
        *_frontier(found),
        *_goals(found, benchmarks),
        *_published(published),
    ]
    for name, section in SECTIONS.items():
        blocks += [f"## {section.title}", section.text]
        noted = [benchmark for benchmark in benchmarks if benchmark.benchmark == name]
        for benchmark in noted:
            blocks += [markdown(benchmark.table), _origin(benchmark)]
        if not noted:
            blocks.append(f"{section.missing} `python -m {name} -o FILE.json` measures it.")
    blocks.append("## Commands")
    for name, note in runs.items():
        blocks += _commands(name, note)
    return "\n\n".join(blocks) + "\n"


def _frontier(found: Sequence[frontier.Row]) -> list[str]:
    if not found:
        return []
    return [
        "## Frontier of ResNet-20",
        "The trained networks that began as ResNet-20, by the way in which they became faster. Runs whose commands\n"
        "differ by the seed alone are one row: the mean, and the standard deviation over the seeds. *Points* is\n"
        "folded less original. *Exact merges, planned* and gates remove activations and merge exactly. *Fits* put\n"
        "one smaller layer in the place of several.",
        "![accuracy lost against speed-up, by way](results/frontier.svg)",
        markdown(frontier.table(found)),
    ]


def _goals(found: Sequence[frontier.Row], benchmarks: Sequence[Document]) -> list[str]:
    header, *rows = goals.table(found, benchmarks)
    if not rows:
        return []
    return [
        "## Which way for which goal",
        "The fastest of what was measured on this page. A goal without a measurement is left out.",
        markdown([header, *rows]),
    ]


def _published(published: Published | None) -> list[str]:
    if published is None:
        return []
    return [
        "## What others published",
        "**Not the same data**, devices or networks as above: these figures are the authors' own, and were not\n"
        "measured here. They show which losses and speed-ups are usual, not which work is better.",
        markdown(published_rows.table(published)),
        "\n".join(f"- {source.work}: {source.source}." for source in published.sources),
    ]


def markdown(table: Sequence[Sequence[str]]) -> str:
    """A table, of a header and rows."""
    rows = (table[0], ["---"] * len(table[0]), *table[1:])
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)


def _trained(runs: Mapping[str, Note]) -> str:
    rows = [["run", "network", "layers", "MACs", "merges", "epochs", *STEPS, "speed-up"]]
    for name, note in runs.items():
        before, after = note.cost.original, note.cost.folded
        rows.append(
            [
                f"[{name}](#{name})",
                note.model,
                f"{before.depth} => {after.depth}",
                f"{quantity(before.macs)} => {quantity(after.macs)}",
                str(len(note.merged)),
                " + ".join(str(note.epochs[stage]) for stage in ("prefold", "finetune")),
                *(_percent(note.accuracy, step) for step in STEPS),
                _speedup(note.comparison),
            ]
        )
    return markdown(rows)


def _percent(accuracy: Mapping[str, float], step: str) -> str:
    return f"{100 * accuracy[step]:.2f}" if step in accuracy else "-"  # fitted networks have no activations to remove


def _speedup(comparison: Comparison | None) -> str:
    if comparison is None:
        return "not measured"
    return f"{comparison.speedup:.3f}x [{comparison.ci95[0]:.3f}, {comparison.ci95[1]:.3f}]"


def _origin(benchmark: Document) -> str:
    """Command, machine and versions of a benchmark, in one paragraph."""
    device, gpu = benchmark.device, benchmark.gpu
    machine = device.board or f"{device.cores} cores of {device.cpu}"
    machine = f"{gpu.name} (CUDA {gpu.cuda}), {machine}" if gpu else machine
    return f"`{benchmark.command}` on {machine}, Python {device.python}, {_versions(benchmark.versions)}."


def _versions(versions: Mapping[str, str | None]) -> str:
    return ", ".join(f"{package} {version}" for package, version in versions.items())


def _commands(name: str, note: Note) -> list[str]:
    where = "no latency was measured"
    if note.latency:
        device = note.latency.device
        where = f"latency by {note.latency.runtime} {device.runtime_version} on {device.name}"
    commands = "\n".join(["```sh", *note.commands, "python -m fold fold RUN", "```"])
    return [
        f"### {name}",
        f"{_versions(note.versions)}; {where}.",
        f"<!-- not run: trains for hours -->\n{commands}",
    ]
