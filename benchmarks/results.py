"""Command line: ``python -m benchmarks.results [RUN|JSON...]``, from the root of the checkout.

Notes in docs/results what came out of each run folder and each benchmark, and writes docs/results.md from all of it.
"""

import shlex
import sys
from pathlib import Path

from benchmarks import document, frontier, notes, published_rows
from benchmarks.document import Document
from benchmarks.notes import Note, NotedLatency, NotedMerge
from benchmarks.results_page import SECTIONS, page
from layer_folding import bench_results, fold_results, run_config
from layer_folding.command_line import Parser, run
from layer_folding.errors import InputError
from layer_folding.files import write_text
from layer_folding.records import as_json
from layer_folding.run_config import Config, StageRun
from layer_folding.subcommands import parse
from layer_folding.train.commands import COMMANDS

FOLDER = Path("docs/results")
PUBLISHED = FOLDER / "published.json"
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
            document.save(FOLDER / "benchmarks" / source.name, note_benchmark(source))
        else:
            notes.write(FOLDER / "runs" / f"{source.resolve().name}.json", note(source))
    runs = {path.stem: notes.read(path) for path in sorted((FOLDER / "runs").glob("*.json"))}
    benchmarks = [document.read(path) for path in sorted((FOLDER / "benchmarks").glob("*.json"))]
    published = published_rows.read(PUBLISHED) if PUBLISHED.exists() else None
    write_text(FOLDER.with_suffix(".md"), page(runs, benchmarks, published))
    frontier.draw(FOLDER / "frontier.svg", frontier.rows(runs))
    print(f"wrote {FOLDER.with_suffix('.md')}: {len(runs)} runs, {len(benchmarks)} benchmarks")


def note_benchmark(path: Path) -> Document:
    """What the page shows of a file that a benchmark wrote. Raises InputError for another file."""
    found = document.read(path)
    if found.benchmark not in SECTIONS:
        raise InputError(f"{path}: is no result of {', '.join(SECTIONS)}; give a file that one of them wrote")
    return found


def note(run: Path) -> Note:
    """What came out of the run folder ``run``: commands, versions, accuracy, cost, and latency where it was measured.

    Raises InputError for a folder that has not been folded.
    """
    config, folded = _config(run), fold_results.load(run / "fold.json", "give run folders that `make fold` has folded")
    bench = bench_results.load(run / "bench.json") if (run / "bench.json").exists() else None
    trained = {stage: entry for stage, entry in config.stages.items() if stage in ("pretrain", "prefold", "finetune")}
    return Note(
        model=folded.model.spec.partition(":")[2],
        commands=tuple(command(stage, entry) for stage, entry in trained.items()),
        versions=dict(trained["finetune"].versions),
        epochs={stage: int(str(entry.settings.get("epochs", 0))) for stage, entry in trained.items()},
        accuracy=folded.accuracy,
        cost=folded.cost,
        merged=tuple(NotedMerge(merge.layers, merge.activations) for merge in folded.folded),
        latency=bench and NotedLatency(bench.runtime, bench.device, bench.comparison),
    )


def command(stage: str, entry: StageRun) -> str:
    """The command of a stage, with the options that were not left at their defaults."""
    settings = {**entry.files, **entry.settings}
    given = [stage, "--run", "RUN"]
    if run_config.is_fit(entry):
        given = ["fit", "RUN", "--choose", *settings.pop("choices")]
    elif stage == "pretrain":
        given += ["--model", str(settings["model"]), "--data", "DATA"]
    defaults = vars(parse(COMMANDS, given, "python -m train")[1])
    words = ["python", "-m", "train", *given]
    for name, value in settings.items():
        if name in defaults and name != "data" and value != as_json(defaults[name]):
            words.append(f"--{_OPTIONS.get(name, name).replace('_', '-')}")
            words += [] if value is True else [_shown(name, value)]
    return shlex.join(words)


def _shown(name: str, value: object) -> str:
    """The value of an option; of what came from a file, only that it did."""
    if name in ("weights", "gate_weights"):
        return _OPTIONS.get(name, name).upper()
    return ",".join(value) if isinstance(value, list) else str(value)


def _config(run: Path) -> Config:
    config = run_config.read(run)
    if config is None:
        raise InputError(f"{run / run_config.NAME}: no such file; give run folders that `make fold` has folded")
    return config


if __name__ == "__main__":
    sys.exit(run(main))
