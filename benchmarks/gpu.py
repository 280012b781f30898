"""Original against merged and fitted in PyTorch on a GPU, as CUDA graphs: ``python -m benchmarks.gpu``, five minutes.

Each network has random weights, and loses every activation whose removal lets layers merge. "Merged" has the exact
merge of these layers. "Fitted" has one layer in their place, with a kernel as large as the largest of theirs. BatchNorm
is merged into the convolutions of all three, as any runtime does, so that the speed-up is that of fewer layers. A graph
launches all kernels of an inference at once, so the time is that of the GPU. Nothing is trained: this is about latency
only.
"""

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.fx.experimental.optimization import fuse

from benchmarks import document
from benchmarks.planned import NETWORKS, Changes, everywhere, folded
from benchmarks.support import randomise_statistics
from layer_folding import command_line, records, stats
from layer_folding.errors import CheckError, InputError
from layer_folding.fit_choices import Choice
from layer_folding.fold.fitting.parts import Part, find_parts
from layer_folding.fold.fitting.placing import place_all
from layer_folding.fold.folding import fold, scan
from layer_folding.fold.graph.tracing import trace
from layer_folding.fold.networks import open_network
from layer_folding.fold.reporting import table
from layer_folding.trt_bench import inference_times, timer

NAMES = ("resnet20", "resnet18", "mobilenet_v2", "vgg16_bn")
VARIANTS = ("original", "merged", "fitted")
BATCHES = (1, 32)
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16}
WARM_UP = 3  # runs before a capture, in which cuDNN chooses its kernels

EXAMPLE = """\
example: python -m benchmarks.gpu --networks resnet18 mobilenet_v2 -o runs/gpu.json

exit codes: 0 done, 1 a network computes infinities, 2 bad input, or no GPU
"""


def variants(name: str) -> tuple[list[nn.Module], torch.Tensor]:
    """The network ``name`` as each of `VARIANTS`, BatchNorms merged, and an image [1, C, H, W]; all on the CPU."""
    network = NETWORKS[name]
    torch.manual_seed(0)
    model, shape = open_network(network.spec, [3, network.pixels, network.pixels])
    images = torch.randn(2, *shape)
    randomise_statistics(model, images)
    merged = folded(model, Changes(everywhere(model, images)), images)[0]
    return [fuse(model), fuse(merged), fuse(fitted(model, images))], images[:1]


def fitted(model: nn.Module, images: torch.Tensor) -> nn.Module:
    """``model`` with one layer, of fresh weights, for each set of layers that could merge; folded.

    Of two sets that share a layer, the first has it.
    """
    traced = trace(model.eval(), images, share_weights=True)
    parts: list[Part] = []
    for merge in scan(model, images).candidates:
        (part,) = find_parts(traced, [Choice(merge.activations, _largest_kernel(traced, merge.layers))])
        if all(set(part.layers).isdisjoint(other.layers) for other in parts):
            parts.append(part)
    placed = place_all(traced, find_parts(traced, [part.choice for part in parts]))[0]
    randomise_statistics(placed, images)
    return fold(placed, images[:1]).model


def _largest_kernel(model: nn.Module, layers: Sequence[str]) -> int:
    """Of the convolutions called ``layers``, whose kernels are square; 1 for linear layers."""
    return max(max(getattr(model.get_submodule(layer), "kernel_size", (1,))) for layer in layers)


def replay(model: nn.Module, x: torch.Tensor) -> timer.Repeat:
    """A function that runs ``model`` on ``x``, both on the GPU, n times as a CUDA graph, and returns their trace.

    Both must outlive that function: a graph holds addresses. Raises CheckError where the output is not finite.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.no_grad(), torch.cuda.stream(side):
        for _ in range(WARM_UP):
            output = model(x)
    torch.cuda.current_stream().wait_stream(side)
    if not output.isfinite().all():
        raise CheckError(f"{type(model).__name__}: computes NaN or infinity in {x.dtype}; leave that network out")
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        model(x)

    def repeat(count: int) -> np.ndarray:
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
        marks[0].record()
        for mark in marks[1:]:
            graph.replay()
            mark.record()
        marks[-1].synchronize()
        return inference_times.of_host([round(1e6 * marks[0].elapsed_time(mark)) for mark in marks])

    return repeat


def measure(name: str, seconds: float) -> list[dict]:
    """A JSON value for each batch size and precision: samples in ms of both networks, and their comparison."""
    models, image = variants(name)
    found = []
    for (precision, dtype), batch in itertools.product(PRECISIONS.items(), BATCHES):
        layout = torch.channels_last if dtype is torch.float16 else torch.contiguous_format  # of tensor cores
        x = image.repeat(batch, 1, 1, 1).to("cuda", dtype, memory_format=layout)
        repeats = [replay(model.to("cuda", dtype, memory_format=layout), x) for model in models]
        label = f"{name}, {precision}, batch {batch}"
        timing = timer.measure(
            repeats, seconds, progress=lambda text, at=label: command_line.progress(text and f"{at}: {text}")
        )
        found.append(row(name, precision, batch, timing.samples_ms))
    return found


def row(name: str, precision: str, batch: int, samples_ms: list[list[float]]) -> dict:
    """One entry of the result; ``samples_ms`` are those of the networks of `VARIANTS`."""
    original, *others = map(np.array, samples_ms)
    return {
        "network": name,
        "precision": precision,
        "batch": batch,
        "samples_ms": dict(zip(VARIANTS, samples_ms, strict=True)),
        "comparisons": {
            variant: records.as_json(stats.compare(original, samples))
            for variant, samples in zip(VARIANTS[1:], others, strict=True)
        },
    }


def lines(rows: list[dict]) -> list[list[str]]:
    """A header, and a line for each entry."""
    found = [["network", "precision", "batch", "original ms", *VARIANTS[1:]]]
    for entry in rows:
        median = f"{np.median(entry['samples_ms']['original']):.4g}"
        speedups = [_speedup(entry["comparisons"][variant]) for variant in VARIANTS[1:]]
        found.append([entry["network"], entry["precision"], str(entry["batch"]), median, *speedups])
    return found


def _speedup(comparison: dict) -> str:
    low, high = comparison["ci95"]
    verdict = comparison["verdict"].replace("no significant difference", "as fast")
    return f"{comparison['speedup']:.3f}x [{low:.3f}, {high:.3f}] {verdict}"


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a table, write the samples. Raises InputError without a GPU."""
    parser = command_line.Parser(
        prog="python -m benchmarks.gpu",
        description=__doc__.partition("\n")[0],
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--networks", nargs="+", choices=NAMES, default=NAMES, help="(all)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of timing for each network (%(default)s)")
    parser.add_argument("-o", "--output", type=Path, metavar="JSON", help="write all samples here")
    options = parser.parse_args(arguments)
    document.check_output(options.output)
    if not torch.cuda.is_available():
        raise InputError("no GPU: PyTorch finds no CUDA device here; run this on a machine with one")
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = False  # fp32 is to be fp32
    rows = [entry for name in options.networks for entry in measure(name, options.seconds)]
    where = f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, CUDA {torch.version.cuda}"
    print(f"{table(lines(rows))}\n\n{where}, replayed CUDA graphs")
    if options.output:
        document.write(options.output, "benchmarks.gpu", arguments, lines(rows), gpu=document.gpu(), samples=rows)


if __name__ == "__main__":
    sys.exit(command_line.run(main))
