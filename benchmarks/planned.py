"""Whether planning keeps its promise: ``python -m benchmarks.planned``, half an hour on an idle machine.

Five networks with random weights are planned by a latency table that is measured first, with everything allowed. Each
is then timed in one interleaved run as it was, as planned, folded everywhere, and with a published choice of blocks
where there is one. Planned must not be slower than any of the others. Nothing is trained: this is about latency only.
"""

import argparse
import contextlib
import io
import json
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from benchmarks import document
from benchmarks.support import randomise_statistics
from export import lower, metadata, simplify
from export.segments import Segment, write_segments
from fold import __main__ as folding
from fold import candidates, fold, hoist_padding, scan
from fold.checkpoint import remove
from fold.network import open_network
from fold.report import table
from fold.trace import trace
from trt_bench import cli, prediction, stats
from trt_bench.bench import Bench, bench
from trt_bench.errors import CheckError, InputError
from trt_bench.runtimes import Options
from trt_bench.runtimes import onnxruntime as runtime
from trt_bench.table import How, measure

EXAMPLE = """\
examples:
  python -m benchmarks.planned -o runs/planned.json
  python -m benchmarks.planned --networks resnet20 --seconds 3

A network that is in the -o file is not measured again; working files are in a folder beside it, and are used again.
exit codes: 0 done, 1 a planned network is slower than another, 2 bad input
"""


@dataclass(frozen=True)
class Network:
    """Where a network comes from, the size of its images, and the activations of published choices of what to fold."""

    spec: str
    pixels: int
    published: tuple[str, ...] = ()


def _blocks(numbers: Iterable[int]) -> tuple[str, ...]:
    return tuple(f"features.{block}.conv.{layer}.2" for block in numbers for layer in (0, 1))


NETWORKS = {
    "resnet20": Network("resnet20", 32),
    "resnet56": Network("resnet56", 32),
    "resnet18": Network("torchvision:resnet18", 224),
    # inverted residual blocks merged whole in MobileNetV2 1.0, counted from 1: Fu et al., ICML 2022 (arXiv 2206.00843)
    "mobilenet_v2": Network("torchvision:mobilenet_v2", 224, _blocks((2, 4, 8, 9, 10))),
    "vgg16_bn": Network("torchvision:vgg16_bn", 224),
}


def run(name: str, folder: Path, seconds: float) -> dict:
    """Plan the network ``name`` by a table measured now, carry it out, and time it beside the others: a JSON value.

    ``folder`` gets the segments, the table and the networks; a table that is there is used again. ``seconds`` are for
    timing each network.
    """
    network = NETWORKS[name]
    shape = [3, network.pixels, network.pixels]
    torch.manual_seed(0)
    model, _ = open_network(network.spec, shape)
    images = torch.randn(2, *shape)
    randomise_statistics(model, images)  # so that no value becomes infinite, or so small that arithmetic is slow
    plan = _plan(network.spec, model, shape, folder)
    wanted = {"original": (), "planned": tuple(sorted(plan.removed)), "everything": everywhere(model, images[:1])}
    if network.published:
        wanted["published"] = network.published
    paths = []
    for variant, removed in wanted.items():
        cli.progress(f"{name}: {variant}")
        paths.append(str(folder / f"{variant}.onnx"))
        _export(model, removed, network.spec, images, paths[-1])
    result, _ = bench(paths, runtime, "", Options(), Bench(seconds), cli.progress)
    result["prediction"] = prediction.compare(plan, result, runtime, Options(), cli.progress)
    cli.progress("")
    return {"removed": {variant: list(names) for variant, names in wanted.items()}, "bench": result}


def _plan(spec: str, model: nn.Module, shape: list[int], folder: Path) -> prediction.Plan:
    """The steps of a user: export the segments, measure the table, plan."""
    segments = (Segment(*each) for each in candidates.segments(model, torch.zeros(1, *shape)))
    write_segments(segments, folder / "segments")
    latency = folder / "latency.csv"
    measure(str(folder / "segments"), str(latency), runtime, "", Options(), How(), cli.progress)
    size = [str(n) for n in shape]
    with contextlib.redirect_stdout(io.StringIO()):
        folding.main(["plan", spec, "--input", *size, "--latency", str(latency), "-o", str(folder)])
    return prediction.load(str(folder / "plan.json"))


def everywhere(model: nn.Module, example: torch.Tensor) -> tuple[str, ...]:
    """All activations whose removal lets layers merge."""
    return tuple(name for merge in scan(model, example).candidates for name in merge.activations)


def folded(model: nn.Module, removed: tuple[str, ...], images: torch.Tensor) -> nn.Module:
    """``model`` without the activations ``removed``, its padding hoisted, folded.

    BatchNorms get new statistics, near those of ``images``: without activations, values would else outgrow float16.
    """
    bare = hoist_padding(remove(trace(model, images), list(removed)), images)[0].eval()
    randomise_statistics(bare, images)
    return fold(bare, images[:1]).model


def _export(model: nn.Module, removed: tuple[str, ...], spec: str, images: torch.Tensor, path: str) -> None:
    """Write ``model`` without the activations ``removed``, folded, as ONNX that says so. Nothing removed: as it is."""
    stage = "original"
    if removed:  # with nothing to remove, a plan is to keep the network
        model, stage = folded(model, removed, images), "folded"
    recipe = {
        "stage": stage,
        "model": {"spec": spec},
        "input_shape": list(images.shape[1:]),
        "removed": list(removed),
    }
    proto = simplify(lower(model, images))[0]
    metadata.write(proto, {**metadata.describe(model, recipe), "precision": "fp32"})
    onnx.save(proto, path)


def slower(result: dict) -> list[str]:
    """The networks of a `run` that are faster than the planned one, by more than the interval of the comparison."""
    samples = {model["name"]: np.array(model["samples_ms"]) for model in result["bench"]["models"]}
    planned = samples.pop("planned")
    return [name for name, other in samples.items() if stats.compare(other, planned)["verdict"] == "slower"]


def rows(results: dict[str, dict]) -> list[list[str]]:
    """A header, and a row for each network."""
    header = [
        "network", "depth", "original ms", "predicted ms", "measured ms", "predicted", "planned", "everything",
        "published", "miss", "slower than",
    ]  # fmt: skip
    found = [header]
    for name, result in results.items():
        models = {model["name"]: model for model in result["bench"]["models"]}
        said = result["bench"]["prediction"]
        speedups = {each["candidate"]: each for each in result["bench"]["comparisons"]}
        depths = [models[variant]["network"]["depth"] for variant in ("original", "planned")]
        found.append(
            [
                name,
                f"{depths[0]} => {depths[1]}",
                f"{models['original']['latency_ms']['median']:.3g}",
                f"{said['latency_ms']['planned']:.3g} +- {said['latency_ms']['error']:.1g}",
                f"{models['planned']['latency_ms']['median']:.3g}",
                f"{said['speedup']:.3f}x",
                *(_speedup(speedups.get(variant)) for variant in ("planned", "everything", "published")),
                f"{said['miss']:+.1%}",
                ", ".join(slower(result)) or "none",
            ]
        )
    return found


def _speedup(comparison: dict | None) -> str:
    if comparison is None:
        return "-"
    low, high = comparison["ci95"]
    verdict = comparison["verdict"].replace("no significant difference", "equal")
    return f"{comparison['speedup']:.3f}x [{low:.3f}, {high:.3f}] {verdict}"


def text(results: dict[str, dict]) -> str:
    """The table, and the device."""
    devices = {
        f"ONNX Runtime {device['runtime_version']} on {device['name']}, one thread, batch 1"
        for device in (result["bench"]["device"] for result in results.values())
    }
    return "\n".join([table(rows(results)), "", *sorted(devices)])


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table. Raises InputError, and CheckError where a planned network is slower than another."""
    parser = cli.Parser(
        prog="python -m benchmarks.planned",
        description=__doc__.partition("\n")[0],
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=[*NETWORKS], help="(all)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of timing for each network (%(default)s)")
    parser.add_argument("-o", "--output", type=Path, metavar="JSON", help="keep samples here; go on where it ends")
    options = parser.parse_args(arguments)
    document.check_output(options.output)
    known = _read(options.output)
    with contextlib.ExitStack() as stack:
        work = options.output.with_suffix("") if options.output else None
        work = work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name in options.networks:
            if name not in known:
                (work / name).mkdir(parents=True, exist_ok=True)
                known[name] = run(name, work / name, options.seconds)
                if options.output:
                    document.write(options.output, "benchmarks.planned", arguments, rows(known), networks=known)
    chosen = {name: known[name] for name in options.networks}
    print(text(chosen))
    failed = [f"{name} than {', '.join(slower(result))}" for name, result in chosen.items() if slower(result)]
    if failed:
        raise CheckError(f"planned is slower: {'; '.join(failed)}; see whether the machine was quiet, then the table")


def _read(path: Path | None) -> dict[str, dict]:
    if path is None or not path.exists():
        return {}
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        if known["schema"] != document.SCHEMA:
            raise ValueError(f"schema is {known['schema']!r}")
        return dict(known["networks"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"-o {path}: is no result of this benchmark ({error}); give another file") from error


if __name__ == "__main__":
    sys.exit(cli.run(main))
