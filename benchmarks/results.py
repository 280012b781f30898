"""Command line: ``python -m benchmarks.results [RUN|JSON...]``, from the root of the checkout.

Notes in docs/results what came out of each run folder and each benchmark, and writes docs/results.md from all of it.
"""

import json
import shlex
import sys
from pathlib import Path

from benchmarks import document
from benchmarks.results_page import SECTIONS, draw, page
from fold.cli import Parser, run
from fold.errors import InputError
from fold.files import write_json, write_text
from train.arguments import parser as stages

FOLDER = Path("docs/results")
SCHEMA = 1
_OPTIONS = {"penalty": "lambda", "gate_weights": "latency"}  # a run notes the weights that a table gave

EXAMPLE = """\
examples:
  python -m benchmarks.results runs/resnet20-cifar10 runs/mobilenetv2-cifar10
  python -m benchmarks -o runs/costs.json && python -m benchmarks.results runs/costs.json
  python -m benchmarks.results

exit codes: 0 done, 2 bad input
"""


def main(arguments: list[str] | None = None) -> None:
    """Note the runs and benchmarks that were named, and write the page. Raises InputError."""
    parser = Parser(
        prog="python -m benchmarks.results",
        description="Note what came out of runs and benchmarks in docs/results, and write docs/results.md from it all.",
        epilog=EXAMPLE,
    )
    parser.add_argument(
        "sources", nargs="*", type=Path, metavar="RUN|JSON",
        help="run folders that have been folded, and files of benchmarks",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    if not FOLDER.parent.is_dir():
        raise InputError(f"{FOLDER}: there is no folder {FOLDER.parent} here; run this in the root of the checkout")
    for source in options.sources:
        if source.suffix == ".json":
            write_json(FOLDER / "benchmarks" / source.name, note_benchmark(source))
        else:
            write_json(FOLDER / "runs" / f"{source.resolve().name}.json", note(source))
    runs, benchmarks = (
        {path.stem: _read(path) for path in sorted((FOLDER / kind).glob("*.json"))} for kind in ("runs", "benchmarks")
    )
    write_text(FOLDER.with_suffix(".md"), page(runs, benchmarks))
    draw(FOLDER.with_suffix(".svg"), runs)
    print(f"wrote {FOLDER.with_suffix('.md')}: {len(runs)} runs, {len(benchmarks)} benchmarks")


def note_benchmark(path: Path) -> dict:
    """What the page shows of a file that a benchmark wrote: all but the samples.

    Raises InputError for another file, or one of another schema.
    """
    result = _read(path)
    if result.get("schema") != document.SCHEMA or result.get("benchmark") not in SECTIONS:
        raise InputError(f"{path}: is no result of {', '.join(SECTIONS)} as they write it now; measure again")
    shown = ("schema", "benchmark", "command", "device", "gpu", "versions", "table")
    return {key: result[key] for key in shown if key in result}


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


def _read(path: Path) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError
        return found
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: no such file; give run folders that `make fold` has folded, and files that benchmarks wrote"
        ) from error
    except ValueError as error:
        raise InputError(f"{path}: damaged; make it again") from error


if __name__ == "__main__":
    sys.exit(run(main))
