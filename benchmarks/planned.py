"""Whether planning keeps its promise: ``python -m benchmarks.planned``, half an hour on an idle machine.

Five networks with random weights are planned by a latency table that is measured first, with everything allowed. Each
is then timed in one interleaved run as it was, as planned, as planned with exact merges alone, folded everywhere, and
with a published choice of blocks where there is one. Planned must not be slower than any of the others. Nothing is
trained, and layers that a plan fits have random weights: this is about latency only.
"""

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from benchmarks import document
from benchmarks.support import randomise_statistics
from layer_folding import command_line, recipes, records, stats
from layer_folding.bench_results import BenchResult
from layer_folding.errors import CheckError, InputError
from layer_folding.export import lower, onnx_metadata, simplify
from layer_folding.export.precision import TOLERANCES, Calibration, convert
from layer_folding.fit_choices import Choice
from layer_folding.fold import fold, hoist_padding, scan
from layer_folding.fold.fitting.parts import find_parts
from layer_folding.fold.fitting.placing import place_all
from layer_folding.fold.graph.changes import remove
from layer_folding.fold.graph.tracing import trace
from layer_folding.fold.networks import open_network
from layer_folding.fold.plan.candidates import candidates
from layer_folding.fold.planning import plan
from layer_folding.fold.reporting import table
from layer_folding.importance_tables import Importance
from layer_folding.measuring_tables import table as measured_table
from layer_folding.plans import write_plan
from layer_folding.trt_bench import measuring, prediction
from layer_folding.trt_bench.runtimes import Options
from layer_folding.trt_bench.runtimes import onnxruntime as runtime

EXAMPLE = """\
examples:
  python -m benchmarks.planned -o runs/planned.json
  python -m benchmarks.planned resnet20 --seconds 3
  python -m benchmarks.planned --precision int8 resnet20 mobilenet_v2 -o runs/planned.json

A network that is in the -o file is not measured again; working files are in a folder beside it, and are used again.
exit codes: 0 done, 1 a planned network is slower than another, 2 bad input
"""


@dataclass(frozen=True)
class Network:
    """Where a network comes from, the size of its images, and the activations of published choices of what to fold."""

    spec: str
    pixels: int
    published: tuple[str, ...] = ()


@dataclass(frozen=True)
class Changes:
    """What becomes of a network: activations that are ``removed``, for exact merges, and layers to fit."""

    removed: tuple[str, ...] = ()
    fits: tuple[Choice, ...] = ()

    @property
    def lines(self) -> list[str]:
        return [*self.removed, *map(str, self.fits)]


@dataclass(frozen=True)
class Outcome:
    """The ``changes`` of each variant of a network, as plan.txt has them, and the variants timed side by side."""

    changes: dict[str, tuple[str, ...]]
    bench: BenchResult


@dataclass(frozen=True)
class _Outcomes:
    """What a document of this benchmark has besides its table."""

    networks: dict[str, Outcome]


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


def run(name: str, folder: Path, seconds: float, precision: str) -> Outcome:
    """Plan the network ``name`` by a table measured now, carry it out, and time it beside the others in ``precision``.

    ``folder`` gets the segments, the table and the networks; a table that is there is used again. ``seconds`` are for
    timing each network.
    """
    network = NETWORKS[name]
    shape = [3, network.pixels, network.pixels]
    torch.manual_seed(0)
    model, _ = open_network(network.spec, shape)
    images = torch.randn(8, *shape)
    randomise_statistics(model, images)  # so that no value becomes infinite, or so small that arithmetic is slow
    example = images[:1]
    latency = measured_table(
        model, example, folder=folder, precision=precision, runtime="onnxruntime", progress=command_line.progress
    )
    chosen, merged = (plan(model, example, latency, importance=known) for known in (None, _exact(model, example)))
    write_plan(folder / "plan.json", chosen)
    planned = prediction.load(folder / "plan.json")
    wanted = {
        "original": Changes(),
        "planned": Changes(fits=chosen.choices) if chosen.fits else Changes(tuple(sorted(chosen.removed))),
        "merged": Changes(merged.removed),
        "everything": Changes(everywhere(model, example)),
    }
    if network.published:
        wanted["published"] = Changes(network.published)
    paths = []
    for variant, changes in wanted.items():
        command_line.progress(f"{name}: {variant}")
        paths.append(str(folder / f"{variant}.onnx"))
        _export(model, changes, network.spec, images, paths[-1], precision)
    result = measuring.measure(paths, runtime, "", Options(), measuring.Bench(seconds), command_line.progress).result
    predicted = prediction.compare(planned, result, runtime, Options(), command_line.progress)
    command_line.progress("")
    variants = {variant: tuple(changes.lines) for variant, changes in wanted.items()}
    return Outcome(variants, replace(result, prediction=predicted))


def _exact(model: nn.Module, example: torch.Tensor) -> Importance:
    """By which a plan has exact merges alone."""
    exact = [candidate.exact for candidate in candidates(model, example).found if candidate.exact]
    return Importance({each.changes: float(len(each.changes)) for each in exact}, "activations")


def everywhere(model: nn.Module, example: torch.Tensor) -> tuple[str, ...]:
    """All activations whose removal lets layers merge."""
    return tuple(name for merge in scan(model, example).candidates for name in merge.activations)


def folded(model: nn.Module, changes: Changes, images: torch.Tensor) -> tuple[nn.Module, tuple[recipes.FitRecord, ...]]:
    """``model`` with ``changes``, its padding hoisted, folded; and what was fitted, with random weights.

    BatchNorms get new statistics, near those of ``images``: without activations, values would else outgrow float16.
    """
    traced = trace(model, images)
    parts = find_parts(traced, changes.fits)
    fitted, placed = place_all(traced, parts)
    fits = [recipes.FitRecord(str(a.choice), a.layers, b.name, 0.0) for a, b in zip(parts, placed, strict=True)]
    bare = hoist_padding(remove(fitted, list(changes.removed)), images)[0].eval()
    randomise_statistics(bare, images)
    return fold(bare, images[:1]).model, tuple(fits)


def _export(model: nn.Module, changes: Changes, spec: str, images: torch.Tensor, path: str, precision: str) -> None:
    """Write ``model`` with ``changes``, folded, as ONNX that says so. Without changes: as it is."""
    stage = "original"
    fits: tuple[recipes.FitRecord, ...] = ()
    if changes.lines:  # with nothing to change, a plan is to keep the network
        stage, (model, fits) = "folded", folded(model, changes, images)
    recipe = recipes.Recipe(stage, recipes.Network(spec), tuple(images.shape[1:]), fitted=fits, removed=changes.removed)
    proto, said = convert(simplify(lower(model, images))[0], precision, Calibration(images.numpy()), ())
    onnx_metadata.write(proto, {**onnx_metadata.describe(model, recipe), **said})
    onnx.save(proto, path)


def slower(outcome: Outcome) -> list[str]:
    """The networks of a `run` that are faster than the planned one, by more than the interval of the comparison."""
    samples = {model.name: np.array(model.samples_ms) for model in outcome.bench.models}
    planned = samples.pop("planned")
    return [name for name, other in samples.items() if stats.compare(other, planned).verdict == "slower"]


def rows(outcomes: dict[str, Outcome]) -> list[list[str]]:
    """A header, and a row for each network."""
    header = [
        "network", "depth", "original ms", "predicted ms", "measured ms", "predicted", "planned", "merged",
        "everything", "published", "miss", "slower than",
    ]  # fmt: skip
    return [header, *(_row(name, outcome) for name, outcome in outcomes.items())]


def _row(name: str, outcome: Outcome) -> list[str]:
    original, planned = (outcome.bench.model(variant, 1) for variant in ("original", "planned"))
    said = outcome.bench.prediction
    assert said is not None and said.latency_ms is not None and said.miss is not None  # `run` measures what it plans
    speedups = {each.candidate: each for each in outcome.bench.comparisons}
    return [
        name,
        f"{original.network.depth} => {planned.network.depth}",
        f"{original.latency_ms.median:.3g}",
        f"{said.latency_ms.planned:.3g} +- {said.latency_ms.error:.1g}",
        f"{planned.latency_ms.median:.3g}",
        f"{said.speedup:.3f}x",
        *(_speedup(speedups.get(variant)) for variant in ("planned", "merged", "everything", "published")),
        f"{said.miss:+.1%}",
        ", ".join(slower(outcome)) or "none",
    ]


def _speedup(comparison: stats.Comparison | None) -> str:
    if comparison is None:
        return "-"
    low, high = comparison.ci95
    verdict = comparison.verdict.replace("no significant difference", "equal")
    return f"{comparison.speedup:.3f}x [{low:.3f}, {high:.3f}] {verdict}"


def text(outcomes: dict[str, Outcome]) -> str:
    """The table, and the device."""
    devices = {
        f"ONNX Runtime {device.runtime_version} on {device.name}, one thread, batch 1"
        for device in (outcome.bench.device for outcome in outcomes.values())
    }
    return "\n".join([table(rows(outcomes)), "", *sorted(devices)])


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table. Raises InputError, and CheckError where a planned network is slower than another."""
    parser = command_line.Parser(
        prog="python -m benchmarks.planned",
        description=__doc__.partition("\n")[0],
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"{', '.join(NETWORKS)} (all)")
    parser.add_argument("--precision", choices=TOLERANCES, default="fp32", help="of all networks (%(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of timing for each network (%(default)s)")
    parser.add_argument("-o", "--output", type=Path, metavar="JSON", help="keep samples here; go on where it ends")
    options = parser.parse_args(arguments)
    unknown = set(options.networks) - set(NETWORKS)
    if unknown:
        raise InputError(
            f"{', '.join(sorted(unknown))}: no network of this benchmark; give some of {', '.join(NETWORKS)}"
        )
    document.check_output(options.output)
    known = _read(options.output)
    names = {_key(name, options.precision): name for name in options.networks or NETWORKS}
    with contextlib.ExitStack() as stack:
        work = options.output.with_suffix("") if options.output else None
        work = work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for key, name in names.items():
            if key not in known:
                folder = work / key.replace(" ", "-")
                folder.mkdir(parents=True, exist_ok=True)
                known[key] = run(name, folder, options.seconds, options.precision)
                if options.output:
                    document.write(options.output, "benchmarks.planned", arguments, rows(known), networks=known)
    chosen = {key: known[key] for key in names}
    print(text(chosen))
    failed = [f"{name} than {', '.join(slower(result))}" for name, result in chosen.items() if slower(result)]
    if failed:
        raise CheckError(f"planned is slower: {'; '.join(failed)}; see whether the machine was quiet, then the table")


def _key(name: str, precision: str) -> str:
    """What a document calls the network ``name`` in ``precision``."""
    return name if precision == "fp32" else f"{name} {precision}"


def _read(path: Path | None) -> dict[str, Outcome]:
    if path is None or not path.exists():
        return {}
    return records.read(path, _Outcomes, document.SCHEMA, "give a result of this benchmark, or another -o").networks


if __name__ == "__main__":
    sys.exit(command_line.run(main))
