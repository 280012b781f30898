"""Command line: ``python -m benchmarks.results [RUN...]``, from the root of the checkout.

Notes what came out of each run folder in docs/results/NAME.json, and writes docs/results.md from all that are there.
"""

import argparse
import json
import shlex
import sys
from pathlib import Path

from fold.errors import InputError
from fold.files import atomic_path, write_json, write_text
from fold.report import quantity
from train.arguments import parser as stages
from trt_bench import cli

FOLDER = Path("docs/results")
SCHEMA = 1
STEPS = ("original", "prefold", "hardened", "hoisted", "finetuned", "folded")
_OPTIONS = {"penalty": "lambda", "gate_weights": "latency"}  # a run notes the weights that a table gave

EXAMPLE = """\
examples:
  python -m benchmarks.results runs/resnet20-cifar10 runs/mobilenetv2-cifar10
  python -m benchmarks.results

exit codes: 0 done, 2 bad input
"""


def main(arguments: list[str] | None = None) -> None:
    """Note the runs that were named, and write the page. Raises InputError."""
    parser = cli.Parser(
        prog="python -m benchmarks.results",
        description="Note what came out of runs in docs/results, and write docs/results.md from all that is there.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="run folders that have been folded")
    options = parser.parse_args(arguments)
    if not FOLDER.parent.is_dir():
        raise InputError(f"{FOLDER}: there is no folder {FOLDER.parent} here; run this in the root of the checkout")
    for run in options.runs:
        write_json(FOLDER / f"{run.resolve().name}.json", note(run))
    results = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))}
    write_text(FOLDER.with_suffix(".md"), page(results))
    draw(FOLDER.with_suffix(".svg"), results)
    print(f"wrote {FOLDER.with_suffix('.md')}: {len(results)} runs")


def note(run: Path) -> dict:
    """What came out of the run folder ``run``: commands, versions, accuracy, cost, and latency where it was measured.

    Raises InputError for a folder that has not been folded.
    """
    config, folded = (_read(run / name) for name in ("config.json", "fold.json"))
    bench = _read(run / "bench.json") if (run / "bench.json").exists() else None
    trained = {
        stage: entry for stage, entry in config["stages"].items() if stage in ("pretrain", "prefold", "finetune")
    }
    return {
        "schema": SCHEMA,
        "model": folded["model"]["spec"].partition(":")[2],
        "commands": [command(stage, entry["settings"]) for stage, entry in trained.items()],
        "versions": trained["finetune"]["versions"],
        "epochs": {stage: entry["settings"]["epochs"] for stage, entry in trained.items()},
        "accuracy": folded["accuracy"],
        "cost": folded["cost"],
        "merged": [{"layers": merge["layers"], "without": merge["activations"]} for merge in folded["folded"]],
        "latency": bench and {name: bench[name] for name in ("runtime", "device", "comparison")},
    }


def command(stage: str, settings: dict) -> str:
    """The command of a stage, with the options that were not left at their defaults."""
    required = ["--model", settings["model"], "--data", "DATA"] if stage == "pretrain" else []
    defaults = vars(stages().parse_args([stage, "--run", "RUN", *required]))
    words = ["python", "-m", "train", stage, "--run", "RUN", *required]
    for name, value in settings.items():
        if name in defaults and name != "data" and value != defaults[name]:
            words.append(f"--{_OPTIONS.get(name, name).replace('_', '-')}")
            words.append(_shown(name, value))
    return shlex.join(words)


def _shown(name: str, value: object) -> str:
    """The value of an option; of what came from a file, only that it did."""
    if name in ("weights", "gate_weights"):
        return _OPTIONS.get(name, name).upper()
    return ",".join(value) if isinstance(value, list) else str(value)


def page(results: dict[str, dict]) -> str:
    """docs/results.md: a table, and the commands behind each of its rows."""
    lines = [
        "# Results",
        "",
        "Written by `python -m benchmarks.results` from the files in `docs/results`, one for each run folder. Accuracy",
        "is top-1 on the test images, in per cent; speed-up is folded against original, interleaved, batch 1.",
        "",
        "![accuracy against speed-up](results.svg)",
        "",
        "| run | network | layers | MACs | merges | epochs | " + " | ".join(STEPS) + " | speed-up |",
        "|---" * (7 + len(STEPS)) + "|",
    ]
    for name, result in results.items():
        before, after = (result["cost"][which] for which in ("original", "folded"))
        epochs = " + ".join(str(result["epochs"][stage]) for stage in ("prefold", "finetune"))
        cells = [
            f"[{name}](#{name})",
            result["model"],
            f"{before['depth']} => {after['depth']}",
            f"{quantity(before['macs'])} => {quantity(after['macs'])}",
            str(len(result["merged"])),
            epochs,
            *(f"{100 * result['accuracy'][step]:.2f}" for step in STEPS),
            _speedup(result["latency"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    for name, result in results.items():
        versions = ", ".join(f"{package} {version}" for package, version in result["versions"].items())
        where = "no latency was measured"
        if result["latency"]:
            device = result["latency"]["device"]
            where = f"latency by {result['latency']['runtime']} {device['runtime_version']} on {device['name']}"
        lines += ["", f"## {name}", "", f"{versions}; {where}.", "", "<!-- not run: trains for hours -->"]
        lines += ["```sh", *result["commands"]]
        lines += ["python -m fold fold RUN", "```"]
    return "\n".join(lines) + "\n"


def draw(path: Path, results: dict[str, dict]) -> None:
    """What folding did to accuracy (points) against how much faster it is, with the interval; a point for each run."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.axvline(1, color="tab:gray", linewidth=0.8)
    axes.axhline(0, color="tab:gray", linewidth=0.8)
    for name, result in results.items():
        if result["latency"] and result["latency"]["comparison"]:
            comparison, accuracy = result["latency"]["comparison"], result["accuracy"]
            x, (low, high) = comparison["speedup"], comparison["ci95"]
            y = 100 * (accuracy["folded"] - accuracy["original"])
            axes.errorbar([x], [y], xerr=[[x - low], [high - x]], fmt="o", label=name)
    axes.set_xlabel("speed-up of the folded network (above 1: faster)")
    axes.set_ylabel("accuracy, folded less original (points)")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small")
    with rc_context({"svg.hashsalt": "results"}), atomic_path(path) as temporary:
        FigureCanvasSVG(figure).print_svg(temporary, metadata={"Date": None})


def _speedup(latency: dict | None) -> str:
    if not latency or not latency["comparison"]:
        return "not measured"
    comparison = latency["comparison"]
    return f"{comparison['speedup']:.3f}x [{comparison['ci95'][0]:.3f}, {comparison['ci95'][1]:.3f}]"


def _read(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; give a run folder that `make fold` has folded") from error
    except ValueError as error:
        raise InputError(f"{path}: damaged; run its stage again") from error


if __name__ == "__main__":
    sys.exit(cli.run(main))
