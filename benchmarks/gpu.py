"""Original against folded in PyTorch on a GPU, as CUDA graphs: ``python -m benchmarks.gpu``, five minutes.

Each network with random weights, every activation gone whose removal lets layers merge. BatchNorm is merged into the
convolutions of both, as any runtime does, so that the speed-up is that of folding. A graph launches all kernels of an
inference at once, so the time is that of the GPU. Nothing is trained: this is about latency only.
"""

import argparse
import itertools
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.fx.experimental.optimization import fuse

from benchmarks import document
from benchmarks.planned import NETWORKS, everywhere, folded
from benchmarks.support import randomise_statistics
from fold.network import open_network
from fold.report import table
from trt_bench import cli, nvml, stats, timer, trace
from trt_bench.errors import CheckError, InputError

NAMES = ("resnet20", "resnet18", "mobilenet_v2", "vgg16_bn")
BATCHES = (1, 32)
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16}
WARM_UP = 3  # runs before a capture, in which cuDNN chooses its kernels

EXAMPLE = """\
example: python -m benchmarks.gpu --networks resnet18 mobilenet_v2 -o runs/gpu.json

exit codes: 0 done, 1 a network computes infinities, 2 bad input, or no GPU
"""


def pair(name: str) -> tuple[nn.Module, nn.Module, torch.Tensor]:
    """The network ``name``, the same folded, and an image [1, C, H, W], on the CPU; BatchNorms of both are merged."""
    network = NETWORKS[name]
    torch.manual_seed(0)
    model, shape = open_network(network.spec, [3, network.pixels, network.pixels])
    images = torch.randn(2, *shape)
    randomise_statistics(model, images)
    return fuse(model), fuse(folded(model, everywhere(model, images), images)), images[:1]


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
        return trace.of_host([round(1e6 * marks[0].elapsed_time(mark)) for mark in marks])

    return repeat


def measure(name: str, seconds: float) -> list[dict]:
    """A JSON value for each batch size and precision: samples in ms of both networks, and their comparison."""
    *models, image = pair(name)
    found = []
    for (precision, dtype), batch in itertools.product(PRECISIONS.items(), BATCHES):
        layout = torch.channels_last if dtype is torch.float16 else torch.contiguous_format  # of tensor cores
        x = image.repeat(batch, 1, 1, 1).to("cuda", dtype, memory_format=layout)
        repeats = [replay(model.to("cuda", dtype, memory_format=layout), x) for model in models]
        label = f"{name}, {precision}, batch {batch}"
        timing = timer.measure(repeats, seconds, progress=lambda text, at=label: cli.progress(text and f"{at}: {text}"))
        found.append(row(name, precision, batch, timing.samples_ms))
    return found


def row(name: str, precision: str, batch: int, samples_ms: list[list[float]]) -> dict:
    """One entry of the result; ``samples_ms`` are those of the original and of the folded network."""
    original, merged = map(np.array, samples_ms)
    return {
        "network": name,
        "precision": precision,
        "batch": batch,
        "original_ms": samples_ms[0],
        "folded_ms": samples_ms[1],
        "comparison": stats.compare(original, merged),
    }


def lines(rows: list[dict]) -> list[list[str]]:
    """A header, and a line for each entry."""
    found = [["network", "precision", "batch", "original ms", "folded ms", "speed-up [95 % interval]", "folded is"]]
    for entry in rows:
        comparison = entry["comparison"]
        low, high = comparison["ci95"]
        medians = [f"{np.median(entry[f'{which}_ms']):.4g}" for which in ("original", "folded")]
        speedup = f"{comparison['speedup']:.3f}x [{low:.3f}, {high:.3f}]"
        verdict = comparison["verdict"].replace("no significant difference", "as fast")
        found.append([entry["network"], entry["precision"], str(entry["batch"]), *medians, speedup, verdict])
    return found


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a table, write the samples. Raises InputError without a GPU."""
    parser = cli.Parser(
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
    gpu = {"name": torch.cuda.get_device_name(), "cuda": torch.version.cuda, **nvml.describe()}
    print(
        f"{table(lines(rows))}\n\n{gpu['name']}, PyTorch {torch.__version__}, CUDA {gpu['cuda']}, replayed CUDA graphs"
    )
    if options.output:
        document.write(options.output, "benchmarks.gpu", arguments, lines(rows), gpu=gpu, samples=rows)


if __name__ == "__main__":
    sys.exit(cli.run(main))
