"""docs/results.md and its picture, from what is noted in docs/results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks import frontier, goals, published_rows
from benchmarks.document import Document
from benchmarks.frontier import span, spread
from benchmarks.notes import Note
from benchmarks.published_rows import Published
from benchmarks.repeats import Experiment, experiments
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
Five networks with random weights, so the section is about latency only. Each network is planned by a table that is
measured first, with everything allowed and no budget. All speed-ups are over the original, interleaved, batch 1.

- *Planned* may fit smaller layers.
- *Merged* is planned with exact merges alone.
- *Everything* has no activation whose removal lets layers merge.
- *Published* is the choice of blocks of DepthShrinker.
- *Miss* is how far the predicted speed-up is above the measured speed-up.
- The last column names the networks that are faster than the planned network.""",
    ),
    "benchmarks.fitting": Section(
        "What fits lose without training",
        """\
ResNet-20, where one 3x3 convolution replaces both convolutions of a block and the activation between them. The rows are
one block alone, four blocks, and all nine blocks. The fit sees training images without their labels. Accuracies are on
all test images. *Tuned* is the result of `lf.fit`. *Least squares* is its result without the last step, the tuning.
Peak memory is that of the whole process.""",
    ),
    "benchmarks.efficientnet_lite": Section(
        "A network trained on ImageNet, without labels",
        """\
EfficientNet-Lite0 with its published weights, planned for some speed-ups on this CPU. The network comes from PyTorch,
and from an ONNX file alone. The fit sees half of the images, without their labels. All shares are on the other half.

- *Top-1* compares the columns. It says little by itself, because the network was probably trained on these images.
- *Agreement* is the share of images that get the same class as from the original network.
- *Fitted* has no further training. *Distilled* learned from the original network for some epochs, on the images of the
  fit.
- *Fitted on* names the GPU or CPU that computed the fits and the distillation.
- The speed-up is that of the CPU below the table. It is the same for fitted and distilled, because both have the same
  layers. It is interleaved, at batch 1, with one thread.""",
    ),
    "benchmarks.fit_cost": Section(
        "What a fit costs",
        """\
Every block becomes one 3x3 convolution. Weights and images are random. *Seconds* is the time without the last step of
`lf.fit`, the tuning; *tuned* is the time with it. *Each alone* is the time in which `lf.importance` fits every block,
one at a time. Peak memory is that of the whole process.""",
    ),
    "benchmarks.paper": Section(
        "The paper's code beside ours",
        """\
ResNet-20 by two codes: the published code of Layer Folding, and our commands. The loss, the loop and the settings of
the published code were written anew. Both codes start from the same weights, and train for the same number of epochs on
the same images.

- The published settings are meant for 100 epochs. Gates begin at 0, where the penalty has no slope. Few epochs open no
  gate.
- Our commands are told to open five gates (`--remove-count 5`).
- Fits are five 3x3 layers. They are fine-tuned for the epochs of both stages.
- *Kernels* is the time to merge nine pairs of 3x3 convolutions, by autograd or by composition.""",
    ),
    "benchmarks": Section(
        "What folding itself costs",
        """\
All contenders of a case are timed interleaved (A B B A) in one process. The speed-up is the median of paired ratios,
over the first contender of the case. Machines in the cloud are fast and slow by turns: compare the ratios, not the
times.

- **epoch**: four batches of an epoch of `prefold`. One contender takes images from memory, and crops them as a batch.
  The other contender transforms each image with PIL in the main process, as the published code does.
- **export**: the time of `torch.onnx` with the step to the opset, and the time to simplify the file, beside onnxsim and
  onnxslim on the same file. Each name says how many nodes stay. [export-support.md](export-support.md) has all
  networks.
- **fold**: `fold.fold` from end to end, with its check in float64. The networks are CIFAR ResNets without the
  activation inside each block, with the padding hoisted.
- **gates**: forward and backward pass with the depth penalty, against the same network without gates. A ratio below 1x
  is the price of the gates: of the 9 gates that `prefold` has by default, and of all 19 gates of `--gate all`.
- **kernels**: the merged kernels of two 3x3 convolutions, by autograd as in the published code of Layer Folding, and by
  `fold.algebra.affine_conv`. `fold.fold` composes in float64.""",
    ),
    "benchmarks.timing": Section(
        "Whether latencies can be trusted",
        """\
`python -m trt_bench bench` times a chain of 20 equal layers against itself, against a chain of 21 layers, and against a
plain loop around the runtime. Each comparison is made 20 times; at least 19 of 20 have to hold.""",
    ),
    "benchmarks.gpu": Section(
        "On a GPU",
        """\
Networks with random weights, as CUDA graphs in PyTorch, so the section is about latency only. They run in fp32 (without
TF32) and in fp16, interleaved. *Merged* has the exact merge of all layers that can merge. *Fitted* has one layer in
their place, with a kernel as large as the largest replaced kernel. All networks have their BatchNorms merged.""",
        "Not measured: there was no GPU to be had.",
    ),
}


def page(runs: Mapping[str, Note], benchmarks: Sequence[Document], published: Published | None) -> str:
    """docs/results.md: goals, trained networks, the frontier, works of others, benchmarks; at the end the commands."""
    found, rows = experiments(runs), frontier.rows(runs)
    blocks = [
        "# Results",
        "`python -m benchmarks.results` writes this page from the files in `docs/results`. There is one file for each\n"
        "run folder and for each benchmark. Intervals are of 95 %. A section without a file says that nothing was\n"
        "measured.",
        "## Trained networks",
        "Accuracy is top-1 on the test images, in per cent. The speed-up is that of the folded network over the\n"
        "original network, interleaved, at batch 1. Runs whose commands differ only by the seed are one experiment:\n"
        "the table has the mean and the standard deviation. Commands, versions and machines are [below](#commands).",
        _trained(found),
        *_frontier(rows),
        *_goals(rows, benchmarks),
        *_published(published),
    ]
    for name, section in SECTIONS.items():
        blocks += [f"## {section.title}", section.text]
        noted = [benchmark for benchmark in benchmarks if benchmark.benchmark == name]
        for benchmark in noted:
            blocks += [markdown(benchmark.table), _origin(benchmark)]
        if not noted:
            blocks.append(f"{section.missing} `python -m {name} -o FILE.json` measures it.")
    blocks += [
        "## Commands",
        "RUN, DATA, WEIGHTS and LATENCY stand for paths. In a checkout, `python -m train` and `python -m fold` are\n"
        "the same as `layer-folding`.",
    ]
    for experiment in found:
        blocks += _commands(experiment)
    return "\n\n".join(blocks) + "\n"


def _frontier(found: Sequence[frontier.Row]) -> list[str]:
    if not found:
        return []
    return [
        "## Frontier of ResNet-20",
        "The trained networks that began as ResNet-20, sorted by the way in which they became faster.\n"
        "*Points* is the accuracy of the folded network less that of the original network. *Exact merges, planned*\n"
        "and *gates* remove activations and merge exactly. *Fits* put one smaller layer in the place of several.",
        "![accuracy lost against speed-up, by way](results/frontier.svg)",
        markdown(frontier.table(found)),
    ]


def _goals(found: Sequence[frontier.Row], benchmarks: Sequence[Document]) -> list[str]:
    header, *rows = goals.table(found, benchmarks)
    if not rows:
        return []
    return [
        "## Which way for which goal",
        "The fastest measured network of this page for each goal. A goal without a measurement is left out.",
        markdown([header, *rows]),
    ]


def _published(published: Published | None) -> list[str]:
    if published is None:
        return []
    return [
        "## What others published",
        "**The data, devices and networks are not the same as above.** The authors of each work published these\n"
        "figures; they were not measured here. The figures show which losses and speed-ups are usual. They do not\n"
        "show which work is better.",
        markdown(published_rows.table(published)),
        "\n".join(f"- {source.work}: {source.source}." for source in published.sources),
    ]


def markdown(table: Sequence[Sequence[str]]) -> str:
    """A table, of a header and rows."""
    rows = (table[0], ["---"] * len(table[0]), *table[1:])
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)


def _trained(found: Sequence[Experiment]) -> str:
    rows = [["experiment", "runs", "network", "layers", "MACs", "merges", "epochs", *STEPS, "speed-up"]]
    for experiment in found:
        notes, before = experiment.runs.values(), experiment.first.cost.original
        rows.append(
            [
                f"[{experiment.name}](#{experiment.name})",
                str(len(notes)),
                experiment.first.model,
                f"{before.depth} => {span(str(note.cost.folded.depth) for note in notes)}",
                f"{quantity(before.macs)} => {span(quantity(note.cost.folded.macs) for note in notes)}",
                span(str(len(note.merged)) for note in notes),
                " + ".join(str(experiment.first.epochs[stage]) for stage in ("prefold", "finetune")),
                *(_percent([note.accuracy for note in notes], step) for step in STEPS),
                _speedup([note.comparison for note in notes if note.comparison]),
            ]
        )
    return markdown(rows)


def _percent(accuracies: Sequence[Mapping[str, float]], step: str) -> str:
    if any(step not in accuracy for accuracy in accuracies):
        return "-"  # fitted networks have no activations to remove
    return spread([100 * accuracy[step] for accuracy in accuracies], 2)


def _speedup(comparisons: Sequence[Comparison]) -> str:
    if not comparisons:
        return "not measured"
    if len(comparisons) == 1:
        return f"{comparisons[0].speedup:.3f}x [{comparisons[0].ci95[0]:.3f}, {comparisons[0].ci95[1]:.3f}]"
    return f"{spread([comparison.speedup for comparison in comparisons], 3)}x"


def _origin(benchmark: Document) -> str:
    """Command, machine and versions of a benchmark, in one paragraph."""
    device, gpu = benchmark.device, benchmark.gpu
    machine = device.board or f"{device.cores} cores of {device.cpu}"
    machine = f"{gpu.name} (CUDA {gpu.cuda}), {machine}" if gpu else machine
    return f"`{benchmark.command}` on {machine}, Python {device.python}, {_versions(benchmark.versions)}."


def _versions(versions: Mapping[str, str | None]) -> str:
    return ", ".join(f"{package} {version}" for package, version in versions.items())


def _commands(experiment: Experiment) -> list[str]:
    note, runs = experiment.first, len(experiment.runs)
    where = "no latency was measured"
    if note.latency:
        device = note.latency.device
        where = f"latency by {note.latency.runtime} {device.runtime_version} on {device.name}"
    versions = " or ".join(dict.fromkeys(_versions(each.versions) for each in experiment.runs.values()))
    each = f"; {runs} runs, each with another `--seed` for the stages that train or fit" if runs > 1 else ""
    commands = "\n".join(["```sh", *experiment.commands, "python -m fold fold RUN", "```"])
    return [
        f"### {experiment.name}",
        f"{versions}; {where}{each}.",
        f"<!-- not run: trains for hours -->\n{commands}",
    ]
